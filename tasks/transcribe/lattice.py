"""One scan over frames that serves all CTC sums: plain, with flagged positions, both directions.

The states of an utterance are the blanks k(0..U) and the positions a(1..U), interleaved. A
flagged position may be spoken as any accepted token and must remember which: its vector over
tokens is packed apart, and its own state holds the vector's sum. Running the same scan on the
utterance reversed in time and in its labels gives the backward variables, because neither the
repeat rule nor the weights prefer a direction; both directions are rows of one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEG = -1e30  # log 0 that stays finite: the derivative of logsumexp of infinities is NaN


@dataclass(frozen=True)
class Labels:
    """Targets of a batch: `tokens` (B, U) int64 with blank = 0 unused, `flags` (B, U) bool.

    `weights` (B, U, V-1) are the log weights of the alternatives 1..V-1 at flagged positions:
    0 for the token itself, at most 0 for others, `NEG` for those that are not accepted; None
    accepts all at 0. `frames` and `lengths` (B,) int64 count frames and tokens.
    """

    tokens: Tensor
    flags: Tensor
    frames: Tensor
    lengths: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        live = torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]
        object.__setattr__(self, "flags", self.flags.bool() & live)

    def take(self, rows: Tensor) -> Labels:
        """Return the utterances `rows` (int64 or bool), without columns that none of them uses."""
        lengths = self.lengths[rows]
        width = int(lengths.max()) if len(lengths) else 0
        return Labels(
            self.tokens[rows, :width],
            self.flags[rows, :width],
            self.frames[rows],
            lengths,
            None if self.weights is None else self.weights[rows, :width],
        )

    def reversed(self) -> Labels:
        """Return the labels read backwards, each within its own length."""
        order = _backwards(self.lengths, self.tokens.shape[1])
        weights = self.weights
        if weights is not None:
            weights = weights.gather(1, order[..., None].expand_as(weights))
        return Labels(
            self.tokens.gather(1, order),
            self.flags.gather(1, order),
            self.frames,
            self.lengths,
            weights,
        )


def _backwards(lengths: Tensor, width: int) -> Tensor:
    """Return (B, width) indices that reverse the first `lengths` entries and keep the others."""
    places = torch.arange(width, device=lengths.device)
    return torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)


def _reverse_time(log_probs: Tensor, frames: Tensor) -> Tensor:
    """Return (T, B, V) with the first `frames` of every utterance in reverse order."""
    order = _backwards(frames, log_probs.shape[0]).T
    return log_probs.gather(0, order[..., None].expand_as(log_probs))


class Scan:
    """Forward variables of a batch of labels on log probabilities (T, B, V).

    `states` (T + 1, B, 2 U + 3): entry 0 is the start before the first frame; the first two
    columns are `NEG`, then blank 0, position 1, blank 1, ... `packed` (T + 1, F, V - 1) holds
    the flagged positions, whose utterances and places are `rows` and `places` (F,).
    """

    def __init__(self, log_probs: Tensor, labels: Labels) -> None:
        self.labels = labels
        total, batch, vocabulary = log_probs.shape
        width = labels.tokens.shape[1]
        device = log_probs.device
        self.rows, self.places = labels.flags.nonzero(as_tuple=True)
        symbols = torch.zeros(batch, 2 * width + 1, dtype=torch.int64, device=device)
        symbols[:, 1::2] = labels.tokens
        self.symbols = symbols
        self.emissions = log_probs.gather(2, symbols.expand(total, -1, -1))
        self.states = log_probs.new_full((total + 1, batch, 2 * width + 3), NEG)
        self.states[0, :, 2] = 0.0
        self.packed = log_probs.new_full((total + 1, len(self.rows), vocabulary - 1), NEG)
        self._log_probs = log_probs
        self._run()

    @property
    def weights(self) -> Tensor | float:
        """Log weights (F, V - 1) of the tokens at flagged positions."""
        if self.labels.weights is None:
            return 0.0
        return self.labels.weights[self.rows, self.places].to(self.packed.dtype)

    def total(self) -> Tensor:
        """Return log P (B,): the sum over all paths that end in the last two states."""
        batch = torch.arange(len(self.labels.frames), device=self.states.device)
        last = self.states[self.labels.frames, batch]
        ends = 2 * self.labels.lengths[:, None] + torch.tensor([1, 2], device=last.device)
        # Without tokens the column before blank 0 is NEG, as it should be.
        return last.gather(1, ends).logsumexp(1)

    def _skips(self) -> Tensor:
        """Return (B, 2 U + 1): 0 where a state may be entered from two before it, else `NEG`."""
        tokens, flags = self.labels.tokens, self.labels.flags
        skip = self.states.new_full(self.symbols.shape, NEG)
        allowed = (tokens[:, 1:] != tokens[:, :-1]) & ~flags[:, :-1]
        skip[:, 3::2] = skip[:, 3::2].masked_fill(allowed, 0.0)
        return skip

    def _run(self) -> None:
        skip, flagged = self._skips(), None
        if len(self.rows):
            flagged = _Flagged(self, self._log_probs)
        merged = torch.empty_like(skip)
        for before, now, emission in zip(
            self.states[:-1], self.states[1:], self.emissions, strict=True
        ):
            entered = now[:, 2:]
            torch.add(before[:, :-2], skip, out=merged)
            torch.logaddexp(merged, before[:, 1:-1], out=merged)
            torch.logaddexp(merged, before[:, 2:], out=entered)
            if flagged is not None:
                flagged.leave(now)
            entered += emission
            if flagged is not None:
                flagged.advance(before, now)


class _Flagged:
    """The flagged positions of a scan: what enters them, what stays, what leaves them."""

    def __init__(self, scan: Scan, log_probs: Tensor) -> None:
        labels, rows, places = scan.labels, scan.rows, scan.places
        self.packed, self.weights = scan.packed, scan.weights
        self.emissions = log_probs[:, rows, 1:]
        self.step = 0
        columns = scan.states.shape[2]
        # Flat places in a slice of `states`: the position itself, the blank and the position
        # before it (for the first position that is one of the NEG columns).
        self.own = rows * columns + 3 + 2 * places
        self.blank, self.position = self.own - 1, self.own - 2
        before = (places - 1).clamp_min(0)
        follows = places > 0
        self.after_flagged = follows & labels.flags[rows, before]
        plain = (follows & ~self.after_flagged).nonzero()[:, 0]
        # A plain token before a flagged position may not be continued as the same token.
        self.repeats = (plain, labels.tokens[rows, before][plain] - 1)
        self.pairs = self.after_flagged.nonzero()[:, 0]  # their predecessor is the row before
        after = (places + 1).clamp_max(labels.tokens.shape[1] - 1)
        leaves = (places + 1 < labels.lengths[rows]) & ~labels.flags[rows, after]
        self.leavers = leaves.nonzero()[:, 0]
        self.targets = self.own[self.leavers] + 2
        # Adds NEG to the one token that may not follow itself.
        self.veto = torch.zeros_like(self.packed[0])[self.leavers]
        banned = labels.tokens[rows, after][self.leavers] - 1
        self.veto.scatter_(1, banned[:, None], NEG)
        self.entry = torch.empty_like(self.packed[0])

    def leave(self, now: Tensor) -> None:
        """Add to the plain positions what comes straight from a flagged one before them."""
        if len(self.leavers):
            inside = self.packed[self.step]
            leaving = (inside[self.leavers] + self.veto).logsumexp(1)
            flat = now.view(-1)
            flat[self.targets] = torch.logaddexp(flat[self.targets], leaving)

    def advance(self, before: Tensor, now: Tensor) -> None:
        """Fill the packed vectors of the next frame, and their sums into its states."""
        inside, flat = self.packed[self.step], before.reshape(-1)
        blank, position = flat[self.blank], flat[self.position]
        # The sum over all tokens of a flagged position is not what may enter the next one.
        position = position.masked_fill(self.after_flagged, NEG)
        self.entry.copy_(torch.logaddexp(blank, position)[:, None].expand_as(self.entry))
        self.entry[self.repeats] = blank[self.repeats[0]]
        if len(self.pairs):
            others = sum_of_others(inside[self.pairs - 1])
            self.entry[self.pairs] = torch.logaddexp(self.entry[self.pairs], others)
        self.entry += self.weights
        following = self.packed[self.step + 1]
        torch.logaddexp(inside, self.entry, out=following)
        following += self.emissions[self.step]
        now.view(-1)[self.own] = following.logsumexp(1)
        self.step += 1


def sum_of_others(values: Tensor) -> Tensor:
    """Return log sum_{j != i} exp(values_j) for every i of the last axis, without cancellation."""
    top, place = values.max(-1, keepdim=True)
    shares = (values - top).exp()
    rest = shares.sum(-1, keepdim=True) - shares
    # At the largest entry the difference would cancel: its sum is made anew. All others are at
    # least 1, the share of the largest.
    without = values.scatter(-1, place, NEG).logsumexp(-1, keepdim=True)
    return (rest.scatter(-1, place, 1.0).log() + top).scatter(-1, place, without)


@dataclass(frozen=True)
class Occupancy:
    """What a lattice says: log P (B,) and the expected counts gamma (T, B, V) of every token."""

    total: Tensor
    gamma: Tensor


def both_ways(log_probs: Tensor, labels: Labels) -> tuple[Scan, Tensor, Tensor]:
    """Run a scan on a batch and its mirror image, in one loop.

    Returns the scan (2 B rows, the mirrored ones last) and the mirrored variables put back
    into place: states (T, B, 2 U + 1) and packed (T, F, V - 1), each with its own emission.
    """
    mirror = labels.reversed()
    mirrored = _reverse_time(log_probs, labels.frames)
    scan = Scan(torch.cat((log_probs, mirrored), 1), _join(labels, mirror))
    total, batch, _ = log_probs.shape
    width = scan.symbols.shape[1]
    time = _backwards(labels.frames, total).T
    back = scan.states[1:, batch:, 2:].gather(0, time[..., None].expand(-1, -1, width))
    order = _backwards(2 * labels.lengths + 1, width)
    back = back.gather(2, order.expand(total, -1, -1))
    count = len(scan.rows) // 2
    packed = scan.packed[1:, count:][:, _mirror(scan, count)]
    packed = packed.gather(0, time[:, scan.rows[:count], None].expand_as(packed))
    return scan, back, packed


def _join(one: Labels, two: Labels) -> Labels:
    weights = None
    if one.weights is not None and two.weights is not None:
        weights = torch.cat((one.weights, two.weights))
    parts = [
        torch.cat((getattr(one, name), getattr(two, name)))
        for name in ("tokens", "flags", "frames", "lengths")
    ]
    return Labels(parts[0], parts[1], parts[2], parts[3], weights)


def _mirror(scan: Scan, count: int) -> Tensor:
    """Return for each flagged position the row of its mirror image among the last `count`."""
    labels, rows, places = scan.labels, scan.rows[:count], scan.places[:count]
    index = torch.zeros(labels.flags.shape, dtype=torch.int64, device=rows.device)
    index[scan.rows[count:], scan.places[count:]] = torch.arange(count, device=rows.device)
    return index[rows + len(labels.frames) // 2, labels.lengths[rows] - 1 - places]


def occupancy(log_probs: Tensor, labels: Labels) -> Occupancy:
    """Return log P and the expected number of frames that speak each token (gamma).

    `gamma[t, b]` sums to 1 at live frames and is 0 after them. An utterance without any path
    has log P below `NEG` / 2 and gamma 0.
    """
    scan, back, packed_back = both_ways(log_probs, labels)
    total_frames, batch, _ = log_probs.shape
    count = len(scan.rows) // 2
    rows, places = scan.rows[:count], scan.places[:count]
    log_p = scan.total()[:batch]
    possible = log_p > NEG / 2
    norm = torch.where(possible, log_p, 0.0)
    frames = torch.arange(total_frames, device=log_probs.device)[:, None]
    alive = (frames < labels.frames) & possible
    places_alive = torch.arange(scan.symbols.shape[1], device=log_probs.device)
    inside = places_alive <= 2 * labels.lengths[:, None]
    inside[rows, 2 * places + 1] = False  # the packed vectors speak for these
    joint = scan.states[1:, :batch, 2:] + back - scan.emissions[:, :batch] - norm[:, None]
    counts = joint.exp().masked_fill(~(alive[..., None] & inside), 0.0)
    gamma = torch.zeros_like(log_probs)
    gamma.scatter_add_(2, scan.symbols[:batch].expand(total_frames, -1, -1), counts)
    if count:
        weights = scan.weights
        weights = weights[:count] if isinstance(weights, Tensor) else weights
        joint = scan.packed[1:, :count] + packed_back - log_probs[:, rows, 1:] - weights
        counts = (joint - norm[rows, None]).exp().masked_fill(~alive[:, rows, None], 0.0)
        gamma[..., 1:].index_add_(1, rows, counts)
    return Occupancy(log_p, gamma)
