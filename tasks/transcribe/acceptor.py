"""The generalized loss with insertions and deletions allowed, written densely for autograd.

Beyond the paper: at a flagged token the label may also be empty (`skip`), and in the gaps beside
it further tokens may stand (`extra`, as k2-fsa/icefall's OTC does around words). Such an acceptor
reads some strings in several ways, and their probabilities add: the loss may be negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .lattice import NEG, Labels
from .losses import generalized_ctc_loss


def acceptor_loss(
    log_probs: Tensor, labels: Labels, skip: float | None = None, extra: float | None = None
) -> Tensor:
    """Return -log of the summed weight of all readings of the labels, per utterance (B,).

    `log_probs` (T, B, V). `skip` is the log weight of leaving a flagged token out, `extra` that
    of every further token beside one; None forbids it. Without both this is the generalized
    loss, computed in another way. Memory and time grow with T U V: for options, not by default.
    """
    dense = _Dense(log_probs, labels, skip, extra)
    totals = []
    for frame in range(int(labels.frames.max())):
        dense.advance(log_probs[frame])
        totals.append(dense.total())
    batch = torch.arange(len(labels.frames), device=log_probs.device)
    total = torch.stack(totals)[labels.frames - 1, batch]
    return torch.where(total > NEG / 2, -total, torch.inf)


def doubtful_loss(
    log_probs: Tensor, labels: Labels, skip: float | None, extra: float | None
) -> Tensor:
    """Return the generalized loss, through the dense acceptor only where an option needs it."""
    flagged = labels.flags.any(1)
    if (skip is None and extra is None) or not flagged.any():
        return generalized_ctc_loss(log_probs, labels)
    losses = log_probs.new_empty(len(flagged))
    losses = losses.masked_scatter(
        flagged, acceptor_loss(log_probs[:, flagged], labels.take(flagged), skip, extra)
    )
    if not flagged.all():
        plain = generalized_ctc_loss(log_probs[:, ~flagged], labels.take(~flagged))
        losses = losses.masked_scatter(~flagged, plain)
    return losses


class _Dense:
    """Nodes 0..U between tokens; `blank` (B, U + 1) and `inside` (B, U + 1, V - 1) at a node.

    Token v of node u was read by the arc into u or by the loop at u; node 0 has no arc.
    """

    def __init__(
        self, log_probs: Tensor, labels: Labels, skip: float | None, extra: float | None
    ) -> None:
        self.lengths = labels.lengths
        batch, width = labels.tokens.shape
        flags = labels.flags
        arcs = log_probs.new_full((batch, width + 1, log_probs.shape[2] - 1), NEG)
        weights = 0.0 if labels.weights is None else labels.weights.to(arcs.dtype)
        arcs[:, 1:] = torch.where(flags[..., None], arcs.new_zeros(1) + weights, NEG)
        own = (labels.tokens - 1).clamp_min(0)[..., None]
        arcs[:, 1:] = arcs[:, 1:].scatter(2, own, 0.0)
        self.arcs = arcs
        self.blank = log_probs.new_full((batch, width + 1), NEG)
        self.blank[:, 0] = 0.0
        self.inside = torch.full_like(arcs, NEG)
        edge = flags.new_zeros(batch, 1)
        beside = torch.cat((flags, edge), 1) | torch.cat((edge, flags), 1)
        after = torch.cat((edge, flags), 1)
        self.loops = log_probs.new_full(beside.shape, NEG).masked_fill(beside, _weight(extra))
        self.jumps = log_probs.new_full(after.shape, NEG).masked_fill(after, _weight(skip))
        self.longest = _longest_run(flags) if skip is not None else 0

    def _jumped(self, mass: Tensor) -> Tensor:
        """Add to the mass (B, U + 1, ...) at every node what skips tokens to get there."""
        jumps = self.jumps.view(*self.jumps.shape, *(1,) * (mass.ndim - 2))
        reached = mass
        for _ in range(self.longest):
            reached = torch.logaddexp(mass, jumps + _shift(reached))
        return reached

    def advance(self, frame: Tensor) -> None:
        """Take in a frame of log probabilities (B, V)."""
        others = _sum_of_others(self.inside)
        ready = self._jumped(torch.logaddexp(self.blank[..., None], others))
        entering = torch.logaddexp(self.arcs + _shift(ready), self.loops[..., None] + ready)
        blank = torch.logaddexp(self.blank, self.inside.logsumexp(2))
        self.inside = frame[:, None, 1:] + torch.logaddexp(self.inside, entering)
        self.blank = frame[:, :1] + blank

    def total(self) -> Tensor:
        """Return the log mass (B,) that may end here."""
        mass = self._jumped(torch.logaddexp(self.blank, self.inside.logsumexp(2)))
        return mass.gather(1, self.lengths[:, None])[:, 0]


def _weight(value: float | None) -> float:
    return NEG if value is None else value


def _shift(mass: Tensor) -> Tensor:
    """Move every node's mass to the node after it."""
    return torch.cat((torch.full_like(mass[:, :1], NEG), mass[:, :-1]), 1)


def _longest_run(flags: Tensor) -> int:
    longest, run = 0, torch.zeros_like(flags[:, :0].sum(1))
    for column in flags.T:
        run = (run + 1) * column
        longest = max(longest, int(run.max()))
    return longest


def _sum_of_others(values: Tensor) -> Tensor:
    """Return log sum_{j != i} exp(values_j) over the last axis, as sums before and after."""
    edge = torch.full_like(values[..., :1], NEG)
    before = torch.cat((edge, values[..., :-1].logcumsumexp(-1)), -1)
    after = torch.cat((values[..., 1:].flip(-1).logcumsumexp(-1).flip(-1), edge), -1)
    return torch.logaddexp(before, after)
