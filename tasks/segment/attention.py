"""Cross-modal self-attention of one level, without the tensor of all words times all cells.

A token is F(n, p) = [visual(p); word(n); position(p)]. Linear maps on F split into a map of the
cells and a map of the words that are added. Since max(a_p + b_n) = max a_p + max b_n and ReLU
grows, even pooled keys and values need only the two pooled maps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    linear,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    relu,
    scaled_dot_product_attention,
)
from torch.utils.checkpoint import checkpoint

# Floats of attended values (words x cells x channels) that are held at once.
CHUNK_FLOATS = 2**24


class PartLinear(nn.Linear):
    """A linear map on [visual; word; position] whose input is given in its three parts."""

    def __init__(self, visual: int, word: int, spatial: int, outputs: int) -> None:
        super().__init__(visual + word + spatial, outputs)
        self.parts = (visual, word, spatial)

    def split(self, visual: Tensor, words: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells' share (I, H, W, out), bias included, and the words' (B, N, out).

        visual (I, H, W, Cv), words (B, N, Cw), spatial (H, W, Cs). Their sum over all pairs is
        the map of the concatenated tensor.
        """
        v, w, s = self.weight.split(self.parts, dim=1)
        return linear(visual, v) + linear(spatial, s, self.bias), linear(words, w)


def attend(queries: Tensor, keys: Tensor, values: Tensor, real: Tensor | None = None) -> Tensor:
    """Return softmax(Q K^T) V, (B, L, d), without the scale 1/sqrt(d), in float32.

    queries (B, L, d); keys and values (B, M, d); `real` (B, M) is False for keys to leave out.
    """
    with torch.autocast(queries.device.type, enabled=False):
        mask = None if real is None else real[:, None, None]
        q, k, v = (tensor.float()[:, None] for tensor in (queries, keys, values))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)[:, 0]


def pool_words(terms: Tensor, real: Tensor) -> Tensor:
    """Return the maxima of neighbouring pairs of real words: (B, N, d) -> (B, ceil(N/2), d).

    `real` (B, N) tells words from padding; a pair of padding gives -inf.
    """
    terms = terms.masked_fill(~real[..., None], -torch.inf)
    return max_pool1d(terms.transpose(1, 2), 2, 2, ceil_mode=True).transpose(1, 2)


def pool_cells(cells: Tensor) -> Tensor:
    """Return the maxima of 2 x 2 cells: (I, H, W, d) -> (I, ceil(H/2), ceil(W/2), d)."""
    return max_pool2d(cells.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)


def pool_tokens(tokens: Tensor, real: Tensor) -> Tensor:
    """Return the maxima of 2 words x 2 x 2 cells of (B, N, H, W, d), which are not negative.

    Padding counts as 0, which never wins against a word.
    """
    tokens = tokens * real[:, :, None, None, None]
    return max_pool3d(tokens.permute(0, 4, 1, 2, 3), 2, 2, ceil_mode=True).permute(0, 2, 3, 4, 1)


class CrossModalAttention(nn.Module):
    """Words and cells of one level attend to each other; the mean over words is projected.

    With Q = ReLU(F Wq + bq), K = pool(ReLU(F Wk + bk)), V = pool(ReLU(F Wv + bv)):
    R = ReLU(softmax(Q K^T) V Wo + bo) + F, and the result is ReLU(mean_n R Wp + bp). With
    `reduced` channels F is first mapped to ReLU(F Wr + br).
    """

    def __init__(
        self, visual: int, word: int, spatial: int, reduced: int, inner: int, outputs: int
    ) -> None:
        super().__init__()
        parts = (visual, word, spatial)
        channels = reduced or sum(parts)
        self.reduce = PartLinear(*parts, reduced) if reduced else None

        def layer() -> nn.Linear:
            return nn.Linear(reduced, inner) if reduced else PartLinear(*parts, inner)

        self.query, self.key, self.value = layer(), layer(), layer()
        self.output = nn.Linear(inner, channels)
        self.project = nn.Linear(channels, outputs)

    def forward(
        self, visual: Tensor, words: Tensor, spatial: Tensor, real: Tensor, owner: Tensor
    ) -> Tensor:
        """Return (B, outputs, H, W) for B sentences about I images.

        visual (I, H, W, Cv); words (B, N, Cw) with `real` (B, N) False for padding; spatial
        (H, W, Cs); `owner` (B,) is the image of each sentence.
        """
        mean = self.mean_response(visual, words, spatial, real, owner)
        return relu(self.project(mean)).permute(0, 3, 1, 2)

    def mean_response(
        self, visual: Tensor, words: Tensor, spatial: Tensor, real: Tensor, owner: Tensor
    ) -> Tensor:
        """Return the mean of R over the words, (B, H, W, C)."""
        inputs = (visual, words, spatial)
        if self.reduce is None:
            cells, terms = _layer(self.query).split(*inputs)
            cells = cells[owner]
            keys, values = (
                _pooled(_layer(layer), inputs, real, owner) for layer in (self.key, self.value)
            )
            rest = _mean_token(*inputs, real, owner)

            def queries(part: slice) -> Tensor:
                return relu(cells[:, None] + terms[:, part, None, None])
        else:
            cells, terms = self.reduce.split(*inputs)
            tokens = relu(cells[owner][:, None] + terms[:, :, None, None])
            keys, values = (
                pool_tokens(relu(layer(tokens)), real) for layer in (self.key, self.value)
            )
            rest = _mean_over_words(tokens, real)

            def queries(part: slice) -> Tensor:
                return relu(self.query(tokens[:, part]))

        per_group = keys.shape[2] * keys.shape[3]
        kept = None if real.all() else real[:, ::2].repeat_interleave(per_group, 1)
        return rest + self._mean_attended(
            queries, keys.flatten(1, 3), values.flatten(1, 3), kept, real
        )

    def _mean_attended(
        self,
        queries: Callable[[slice], Tensor],
        keys: Tensor,
        values: Tensor,
        kept: Tensor | None,
        real: Tensor,
    ) -> Tensor:
        """Return mean_n ReLU(A V Wo + bo), (B, H, W, C), some words at a time."""

        def attended(part: slice) -> Tensor:
            q = queries(part)
            found = attend(q.flatten(1, 3), keys, values, kept)
            weights = real[:, part] / real.sum(1, keepdim=True)
            response = relu(self.output(found)).unflatten(1, q.shape[1:4])
            return torch.einsum("bnhwc,bn->bhwc", response, weights.to(response.dtype))

        first = queries(slice(0, 1))
        step = max(1, CHUNK_FLOATS // (first[..., 0].numel() * self.output.out_features))
        parts = [slice(begin, begin + step) for begin in range(0, real.shape[1], step)]
        if len(parts) == 1:
            return attended(parts[0])
        total = torch.zeros((), device=keys.device)
        for part in parts:
            # What a part needs for its gradient is computed again instead of kept.
            again = torch.is_grad_enabled()
            share = checkpoint(attended, part, use_reentrant=False) if again else attended(part)
            total = total + share
        return total


def _layer(layer: nn.Module) -> PartLinear:
    assert isinstance(layer, PartLinear)
    return layer


def _pooled(
    layer: PartLinear, inputs: tuple[Tensor, Tensor, Tensor], real: Tensor, owner: Tensor
) -> Tensor:
    """Return pool(ReLU(F W + b)), (B, G, H', W', d), from the maxima of cells and of words."""
    cells, terms = layer.split(*inputs)
    terms = pool_words(terms, real)
    return relu(pool_cells(cells)[owner][:, None] + terms[:, :, None, None])


def _mean_over_words(tokens: Tensor, real: Tensor) -> Tensor:
    """Return the mean of (B, N, ...) over the real words."""
    weights = (real / real.sum(1, keepdim=True)).to(tokens.dtype)
    return torch.einsum("bn...,bn->b...", tokens, weights)


def _mean_token(
    visual: Tensor, words: Tensor, spatial: Tensor, real: Tensor, owner: Tensor
) -> Tensor:
    """Return the mean of F over the words: [visual; mean word; position], (B, H, W, C)."""
    visual = visual[owner]
    word = _mean_over_words(words, real)[:, None, None].expand(*visual.shape[:3], -1)
    return torch.cat((visual, word, spatial.expand(len(visual), *spatial.shape)), -1)
