"""From a history to interest vectors: ComiRec-SA and -DR, and the baselines beside them.

All encoders map embedded histories e (B, T, d) and a mask (B, T) to interests (B, K, d); padded
positions of e are zero. Sources: Cen et al., KDD 2020, arXiv 2005.09347 (SA, DR); Li et al.,
CIKM 2019 (MIND); Covington et al., RecSys 2016 (DNN); Hidasi et al., ICLR 2016 (GRU4Rec).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelOptions

MASKED = -(2.0**32) + 1
ROUTING_ITERATIONS = 3


class SelfAttentive(nn.Module):
    """ComiRec-SA: A = softmax_T(W2 tanh(W1 (e + P))), V = A e (equations 5 to 7).

    Positions P enter the scores alone. The hidden width is 4 d, as in the authors' code.
    """

    def __init__(self, dim: int, interests: int, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(width, dim))
        self.hidden = nn.Linear(dim, 4 * dim)
        self.scores = nn.Linear(4 * dim, interests)
        for weight in (self.positions, self.hidden.weight, self.scores.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.scores.bias)

    def attention(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return the weights A (B, T, K); each column sums to one over the positions."""
        inputs = e + self.positions[: e.shape[1]]
        if torch.compiler.is_exporting():  # a shape that depends on data does not export
            raw = self.scores(self.hidden(inputs).tanh())
        else:  # most positions of short histories are padding: score the others alone
            raw = e.new_zeros(*mask.shape, self.scores.out_features)
            raw[mask] = self.scores(self.hidden(inputs[mask]).tanh()).to(raw.dtype)
        return raw.masked_fill(~mask[:, :, None], MASKED).softmax(1)

    def forward(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return interests (B, K, d)."""
        return self.attention(e, mask).transpose(1, 2) @ e


def squash(s: Tensor) -> Tensor:
    """Shrink vectors (..., d) to norms below one: s |s|^2 / ((1 + |s|^2) sqrt(|s|^2 + 1e-9))."""
    norm = s.square().sum(-1, keepdim=True)
    return s * (norm / ((1 + norm) * (norm + 1e-9).sqrt()))


def route(u: Tensor, logits: Tensor, mask: Tensor, iterations: int = ROUTING_ITERATIONS) -> Tensor:
    """Dynamic routing: capsules u (B, K, T, d), first logits (B, K, T) -> interests (B, K, d).

    The softmax is over interests; only the last iteration has a gradient, with its coupling
    held constant (Algorithm 1 and the authors' code).
    """
    fixed = u.detach()
    outside = ~mask[:, None, :]
    for _ in range(iterations - 1):
        coupling = logits.softmax(1).masked_fill(outside, 0)
        v = squash(torch.einsum("bkt,bktd->bkd", coupling, fixed))
        logits = logits + torch.einsum("bktd,bkd->bkt", fixed, v)
    coupling = logits.softmax(1).masked_fill(outside, 0)
    return squash(torch.einsum("bkt,bktd->bkd", coupling, u))


class DynamicRouting(nn.Module):
    """ComiRec-DR: capsules u = W_t^j e_t with a matrix of its own per position and interest.

    W starts as N(0, `init`^2); the authors' code has `init` 1.
    """

    def __init__(self, dim: int, interests: int, width: int, init: float) -> None:
        super().__init__()
        self.interests = interests
        self.maps = nn.Parameter(torch.randn(width, interests * dim, dim) * init)

    def forward(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return interests (B, K, d), each norm below one."""
        batch, width, dim = e.shape
        u = torch.bmm(e.transpose(0, 1), self.maps[:width].transpose(1, 2))  # (T, B, K d)
        u = u.view(width, batch, self.interests, dim).permute(1, 2, 0, 3).contiguous()
        return route(u, e.new_zeros(batch, self.interests, width), mask)


class Mind(nn.Module):
    """MIND's B2I routing: one map for all positions and interests, noise as first logits.

    Noise is drawn anew in every training step; evaluation uses one stored draw (K, T), so that
    the same history always gets the same interests.
    """

    noise: Tensor

    def __init__(self, dim: int, interests: int, width: int, relu: bool) -> None:
        super().__init__()
        self.map = _linear(dim, dim)
        self.relu = _linear(dim, dim) if relu else None
        self.register_buffer("noise", nn.init.trunc_normal_(torch.empty(interests, width)))

    def forward(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return interests (B, K, d)."""
        (batch, width, _), interests = e.shape, len(self.noise)
        if self.training:
            logits = nn.init.trunc_normal_(e.new_empty(batch, interests, width))
        else:
            logits = self.noise[:, :width].expand(batch, -1, -1)
        u = self.map(e)[:, None].expand(-1, interests, -1, -1)
        v = route(u, logits, mask)
        return v if self.relu is None else self.relu(v).relu()


class MeanOfItems(nn.Module):
    """YouTube's DNN in its smallest form: a linear map of the mean embedding; K = 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = _linear(dim, dim)

    def forward(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return one interest (B, 1, d)."""
        count = mask.sum(1, keepdim=True).clamp_min(1)
        return self.map(e.sum(1) / count)[:, None]


class Gru(nn.Module):
    """GRU4Rec: the last state of a GRU whose reset gate acts before the product; K = 1.

    This is the cell of Cho et al. 2014 and TensorFlow 1; `torch.nn.GRU` resets after it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gates = _linear(2 * dim, 2 * dim)
        self.candidate = _linear(2 * dim, dim)
        nn.init.ones_(self.gates.bias)

    def forward(self, e: Tensor, mask: Tensor) -> Tensor:
        """Return one interest (B, 1, d)."""
        dim = e.shape[2]
        gates_in, gates_state = self.gates.weight.split(dim, 1)
        new_in, new_state = self.candidate.weight.split(dim, 1)
        from_inputs = e @ gates_in.T + self.gates.bias
        new_from_inputs = e @ new_in.T + self.candidate.bias
        state = e.new_zeros(e.shape[0], dim)
        for t in range(e.shape[1]):
            reset, update = (from_inputs[:, t] + state @ gates_state.T).sigmoid().chunk(2, 1)
            new = (new_from_inputs[:, t] + (reset * state) @ new_state.T).tanh()
            state = torch.where(mask[:, t, None], update * state + (1 - update) * new, state)
        return state[:, None]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer as TensorFlow starts it: Glorot-uniform, no bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Recommender(nn.Module):
    """A table of item vectors (n + 1, d), row 0 for padding, and an encoder of histories."""

    def __init__(self, items: int, options: ModelOptions) -> None:
        super().__init__()
        dim, width = options.dim, options.max_history
        self.options = options
        self.table = nn.Embedding(items + 1, dim)
        nn.init.xavier_uniform_(self.table.weight)
        encoders = {
            "sa": lambda: SelfAttentive(dim, options.interests, width),
            "dr": lambda: DynamicRouting(dim, options.interests, width, options.routing_init),
            "mind": lambda: Mind(dim, options.interests, width, options.mind_relu),
            "dnn": lambda: MeanOfItems(dim),
            "gru4rec": lambda: Gru(dim),
        }
        self.encoder: nn.Module = encoders[options.variant]()

    def encode(self, vectors: Tensor, histories: Tensor) -> Tensor:
        """Return interests (B, K, d) of histories (B, T) whose rows of the table are `vectors`."""
        mask = histories > 0
        return self.encoder(vectors * mask[:, :, None], mask)

    def forward(self, histories: Tensor) -> Tensor:
        """Return interests (B, K, d) of histories (B, T), int64, left-aligned, 0 behind."""
        return self.encode(self.table(histories), histories)

    @property
    def item_vectors(self) -> Tensor:
        """The table (n + 1, d) that interests are compared with."""
        return self.table.weight.detach()


class Popular(nn.Module):
    """MostPopular in the same form: every history has the interest 1, every item its count."""

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts.float()[:, None])

    def forward(self, histories: Tensor) -> Tensor:
        """Return ones (B, 1, 1)."""
        return self.counts.new_ones(len(histories), 1, 1)

    @property
    def item_vectors(self) -> Tensor:
        """The counts as vectors (n + 1, 1)."""
        return self.counts


AnyModel = Recommender | Popular
