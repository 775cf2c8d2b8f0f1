"""What a node does: everything that touches raw series, for one node or many at once.

A `NodeGroup` never sees another group's data. All its tensors have a leading node axis, and its
random numbers depend on the seed, the node's name, the round and the epoch alone, so that any
grouping of nodes computes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.runtime import stream
from .model import DeviceNet, teacher_probability
from .personal import fine_tune
from .privacy import private_encodings
from .sums import error_sums
from .windows import PARTS, Part, Scaler, Windows, input_sums, make_windows, split_starts

Piece = Literal["train", "valid", "test", "newest"]
KEYS = {"train": 0, "valid": 1, "test": 2, "newest": 3}
ROWS_AT_ONCE = 4096  # sequences per tensor program; more nodes are worked on in turns
FMTL_WEIGHT = 0.01  # weight of the pull towards the neighbours in the authors' code


@dataclass(frozen=True)
class Settings:
    """What the coordinator tells the nodes before anything else; plain numbers only."""

    hidden: int
    embedding: int
    layers: int
    history: int
    horizon: int
    stride: int
    eval_stride: int
    seed: int
    encoding_clip: float = 0.0
    encoding_noise: float = 0.0

    @property
    def net(self) -> DeviceNet:
        """The network of a device."""
        return DeviceNet(self.hidden, self.embedding, self.layers)


def server_order(seed: int, round: int, epoch: int, windows: int) -> Tensor:
    """Return the order in which the server takes the training windows in an epoch of a round."""
    return torch.randperm(windows, generator=stream(seed, 5, round, epoch))


class NodeGroup:
    """Nodes that live in one process: their series, their windows, their training.

    `values` is (n, S) in the data's units, NaN where nothing was measured; `times` the time of day
    in [0, 1) of these steps and perhaps of some behind them, which forecasts need. `secret`
    seeds the noise on uploads; only the nodes know it.
    """

    def __init__(
        self, names: Sequence[str], values: Tensor, times: Tensor, secret: int | None = None
    ) -> None:
        self.names = tuple(names)
        self.values, self.times = values, times
        self.device = values.device
        self.secret = secret
        self._keys = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:4]) for n in names]
        self.weights = torch.zeros(1, 0)
        self.personal: Tensor | None = None
        self.newest: Tensor | None = None  # forecasts (n, H) behind the end, after `finish`
        self._states: Tensor | None = None  # encodings of the training windows, made when needed

    def __len__(self) -> int:
        return len(self.names)

    # --- what the coordinator may ask ---

    def configure(self, **settings: Any) -> dict[str, Tensor]:
        """Take the settings; returns the windows of each part (n, 3), those with targets (n,)."""
        s = self.prepare(Settings(**settings))
        length = self.values.shape[1]
        starts = split_starts(length, s.history, s.horizon, s.stride, s.eval_stride)
        self.starts: dict[Piece, Tensor] = {p: t.to(self.device) for p, t in starts.items()}
        self.starts["newest"] = torch.tensor([length - s.history], device=self.device)
        self.embeddings = torch.zeros(
            len(self), len(starts["train"]), s.layers, s.embedding, device=self.device
        )
        self.personal = None
        windows = make_windows(self.values, self.times, Scaler(0, 1), s.history, s.horizon)
        observed = windows.future(self.starts["train"][None])[2]
        lengths = torch.tensor([len(self.starts[part]) for part in PARTS])
        return {
            "windows": observed.any(-1).sum(1).double(),
            "lengths": lengths.repeat(len(self), 1),
        }

    def prepare(self, settings: Settings) -> Settings:
        """Take the settings alone, without a split: enough for forecasts."""
        self.settings = settings
        self.net = settings.net
        return settings

    def stats(self) -> dict[str, Tensor]:
        """Return count, sum and sum of squares of the training inputs, float64 (n, 3)."""
        return {"sums": input_sums(self.values, self.starts["train"], self.settings.history)}

    def standardise(self, mean: float, std: float) -> dict[str, Tensor]:
        """Take the scaler of all nodes."""
        s = self.settings
        self.scaler = Scaler(mean, std)
        self._states = None
        ahead = min(s.horizon, len(self.times) - self.values.shape[1])
        values = torch.nn.functional.pad(self.values, (0, ahead), value=torch.nan)
        self.windows: Windows = make_windows(values, self.times, self.scaler, s.history, s.horizon)
        return {}

    def take(self, weights: Tensor) -> dict[str, Tensor]:
        """Take the device weights (1 or n, P) that all work from here on uses."""
        self.weights = weights
        self._states = None
        return {}

    def train(
        self,
        *,
        epochs: int,
        first_epoch: int,
        batch: int,
        lr: float,
        step: int,
        decay: float,
        anchors: Tensor | None = None,
        pulls: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Train each node's copy of the weights with an Adam of its own, new each time.

        `step` is the global step that the chance of teacher forcing starts from. For FMTL each
        node is drawn to its neighbours' weights `anchors` (n, K, P) with `pulls` (n, K). Returns
        weights (n, P), the mean loss (n,) of the last epoch.
        """
        found, losses = [], []
        for rows in self.turns(batch):
            own = self._of(self.weights, rows)
            count = len(self.names[rows])
            own = own.expand(count, -1).clone().requires_grad_()
            optimizer = torch.optim.Adam([own], lr=lr, fused=True)
            pull = None if anchors is None or pulls is None else (anchors[rows], pulls[rows])
            loss = own.new_zeros(count)
            for epoch in range(epochs):
                at = step + epoch * self.batches(batch)
                loss = self.epoch(own, optimizer, rows, first_epoch + epoch, batch, at, decay, pull)
            found.append(own.detach())
            losses.append(loss)
        return {"weights": torch.cat(found), "loss": torch.cat(losses)}

    def batches(self, batch: int) -> int:
        """Return the optimizer steps of one epoch."""
        return -(-len(self.starts["train"]) // batch)

    def epoch(
        self,
        own: Tensor,
        optimizer: torch.optim.Optimizer,
        rows: slice,
        epoch: int,
        batch: int,
        step: int,
        decay: float,
        pull: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Train the weights `own` of some nodes for an epoch; returns their mean loss (n,)."""
        total = own.new_zeros(len(own))
        number = 0
        for number, (ids, draws) in enumerate(self._batches(rows, epoch, batch), 1):
            forced = draws <= teacher_probability(step + number - 1, decay)
            g = self.embeddings[rows].gather(
                1, ids[..., None, None].expand(-1, -1, *self.embeddings.shape[2:])
            )
            starts = self.starts["train"][ids]
            squares, count = self._errors(own, starts, rows, g, forced[:, None])
            loss = squares / count.clamp_min(1)
            total += loss.detach()
            if pull is not None:
                distance = (own[:, None] - pull[0]).norm(dim=-1)
                loss = loss + FMTL_WEIGHT * (pull[1] * distance).sum(1)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
        return total / max(number, 1)

    def _batches(self, rows: slice, epoch: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield window numbers (n, B) and uniform draws (n, H), each node in its own order."""
        count = len(self.starts["train"])
        orders, draws = [], []
        for key in self._keys[rows]:
            generator = stream(self.settings.seed, 1, key, epoch)
            orders.append(torch.randperm(count, generator=generator))
            shape = (-(-count // batch), self.settings.horizon)
            draws.append(torch.rand(shape, generator=generator))
        order, draw = torch.stack(orders).to(self.device), torch.stack(draws).to(self.device)
        for number, begin in enumerate(range(0, count, batch)):
            yield order[:, begin : begin + batch], draw[:, number]

    def _errors(
        self, weights: Tensor, starts: Tensor, rows: slice, g: Tensor, forced: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors and the number of targets, (n,) each."""
        values, times = self.windows.past(starts, rows)
        encodings = self.net.encode(weights, values, times)
        future = self.windows.future(starts, rows)
        state = torch.cat((encodings, g), -1)
        forecast = self.decode_states(weights, state, (values, times), future, forced)
        return _squares(forecast, future)

    def decode_states(
        self,
        weights: Tensor,
        state: Tensor,
        past: tuple[Tensor, Tensor],
        future: tuple[Tensor, Tensor, Tensor],
        forced: Tensor | None,
    ) -> Tensor:
        """Return standardised forecasts (n, B, H) from states (n, B, L, h + e) of n nodes.

        `past` and `future` are what `Windows` gives; where `forced` (broadcastable, bool) holds
        and the truth was observed, it is fed to the decoder.
        """
        last = past[0][..., -1], past[1][..., -1]
        times, targets, observed = future
        if forced is not None:
            forced = forced & observed
        if len(weights) == len(state):
            return self.net.decode(weights, state, last, times, targets, forced)
        # All nodes share the weights: one device, the nodes side by side among its sequences.
        flat = _fold((state, *last, times, targets))
        if forced is not None:
            forced = forced.flatten(0, 1)[None]
        out = self.net.decode(weights, flat[0], (flat[1], flat[2]), flat[3], flat[4], forced)
        return out.view(times.shape)

    @torch.no_grad()
    def encode(self, part: Piece, begin: int, end: int, tag: int) -> dict[str, Tensor]:
        """Return the encodings (n, end - begin, L, h) of windows, clipped and noised if asked.

        The noise of the same windows under the same `tag` is the same: asking again for it does
        not average it away.
        """
        encodings = self._encode(self.weights, self.starts[part][begin:end])
        return {"encodings": self._private(encodings, (tag, KEYS[part], begin))}

    def _encode(self, weights: Tensor, starts: Tensor) -> Tensor:
        parts = []
        for rows in self.turns(max(1, len(starts))):
            past = self.windows.past(starts[None], rows)
            parts.append(self.states(self._of(weights, rows), past))
        return torch.cat(parts)

    def states(self, weights: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """Return the encodings (n, B, L, h) of values and times (n, B, T) of n nodes."""
        states = self.net.encode(weights, *(_fold(past) if len(weights) == 1 else past))
        return states.view(*past[0].shape[:2], *states.shape[2:])

    @staticmethod
    def _of(weights: Tensor, rows: slice) -> Tensor:
        """Return the weights of some nodes: one row where all share it."""
        return weights if len(weights) == 1 else weights[rows]

    def _private(self, encodings: Tensor, keys: tuple[int, ...]) -> Tensor:
        clip, noise = self.settings.encoding_clip, self.settings.encoding_noise
        # Whoever knows the seed can take the noise off: real nodes draw a secret one.
        seed = self.settings.seed if self.secret is None else self.secret
        draws = [stream(seed, 2, key, *keys) for key in self._keys]
        return private_encodings(encodings, clip, noise, draws)

    def decode_gradient(
        self, embeddings: Tensor, *, round: int, epoch: int, begin: int, forced: list[bool]
    ) -> dict[str, Tensor]:
        """Return what split learning sends back for a batch of training windows.

        The batch is `begin`, begin + 1, ... of the server's order of that epoch, which both sides
        know; `embeddings` (n, B, L, e) came from the server. Returns the gradient of the summed
        squared error with respect to them, that sum (n,) and the number of targets (n,). The
        device weights are frozen. `forced` says at which steps the decoder is fed the truth.
        """
        order = server_order(self.settings.seed, round, epoch, len(self.starts["train"]))
        ids = order[begin : begin + embeddings.shape[1]].to(self.device)
        fed = torch.tensor(forced, device=self.device)
        states = self._training_states()
        gradients, sums, counts = [], [], []
        starts = self.starts["train"][ids]
        for rows in self.turns(len(ids)):
            g = embeddings[rows].detach().requires_grad_()
            future = self.windows.future(starts[None], rows)
            past = self.windows.past(starts[None], rows)
            state = torch.cat((states[rows][:, ids], g), -1)
            own = self._of(self.weights, rows)
            forecast = self.decode_states(own, state, past, future, fed.expand(*future[0].shape))
            squares, count = _squares(forecast, future)
            gradients.append(torch.autograd.grad(squares.sum(), g)[0])
            sums.append(squares.detach())
            counts.append(count)
        return {
            "gradients": torch.cat(gradients),
            "squares": torch.cat(sums),
            "count": torch.cat(counts),
        }

    @torch.no_grad()
    def _training_states(self) -> Tensor:
        """Encode the training windows once per server phase: the weights are frozen there."""
        if self._states is None:
            chunks = self.starts["train"].split(ROWS_AT_ONCE)
            self._states = torch.cat([self._encode(self.weights, part) for part in chunks], 1)
        return self._states

    def keep(self, begin: int, embeddings: Tensor) -> dict[str, Tensor]:
        """Keep the embeddings (n, b, L, e) of the training windows from `begin` on."""
        self.embeddings[:, begin : begin + embeddings.shape[1]] = embeddings
        return {}

    @torch.no_grad()
    def forecast(self, starts: Tensor, embeddings: Tensor, own: Tensor | None = None) -> Tensor:
        """Return forecasts (n, B, H), in the data's units, of windows that start at `starts`.

        With the node's `own` weights (n, P) its own encoder and decoder are used.
        """
        weights = self.weights if own is None else own
        found = []
        for rows in self.turns(len(starts)):
            past = self.windows.past(starts[None], rows)
            future = self.windows.future(starts[None], rows)
            mine = self._of(weights, rows)
            state = torch.cat((self.states(mine, past), embeddings[rows]), -1)
            found.append(self.scaler.restore(self.decode_states(mine, state, past, future, None)))
        return torch.cat(found)

    def finish(self, embeddings: Tensor) -> dict[str, Tensor]:
        """Forecast the steps behind the end of the series and keep that in `newest`."""
        self.newest = self.forecast(self.starts["newest"], embeddings, self.personal)[:, 0]
        return {}

    def evaluate(self, part: Part, begin: int, embeddings: Tensor) -> dict[str, Tensor]:
        """Return sums of errors per node and horizon over windows from `begin` on, float64.

        (n, H, 5) as `error_sums` has them. Nodes that were personalised use their own weights.
        """
        starts = self.starts[part][begin : begin + embeddings.shape[1]]
        forecast = self.forecast(starts, embeddings, self.personal)
        return {"sums": error_sums(forecast, self.truth(starts))}

    def truth(self, starts: Tensor) -> Tensor:
        """Return what was measured in the steps to forecast, (n, B, H), NaN where nothing was."""
        s = self.settings
        ahead = torch.arange(s.history, s.history + s.horizon, device=self.device)
        return self.values[:, starts[:, None] + ahead]

    def personalise(self, valid_embeddings: Tensor, **how: Any) -> dict[str, Tensor]:
        """Fine-tune a copy of the weights per node and keep it here, as `personal.fine_tune` says.

        Returns the chosen epochs and the validation sums before and after.
        """
        self.personal, found = fine_tune(self, valid_embeddings, **how)
        return found

    def turns(self, sequences: int) -> Iterator[slice]:
        """Yield slices of nodes whose sequences fit into one tensor program."""
        width = max(1, ROWS_AT_ONCE // max(1, sequences))
        for begin in range(0, len(self), width):
            yield slice(begin, begin + width)


def _fold(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Put nodes and windows (n, B, ...) into one axis (1, n B, ...)."""
    return [t.flatten(0, 1)[None] for t in tensors]


def _squares(forecast: Tensor, future: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    _, targets, observed = future
    squares = (forecast - targets).square() * observed
    return squares.sum((1, 2)), observed.sum((1, 2)).to(squares.dtype)
