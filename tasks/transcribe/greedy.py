"""Greedy decoding of a batch without a loop: tokens, where they were said, how sure each run is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lattice import Labels


@dataclass(frozen=True)
class Decoded:
    """Tokens (B, U) of a batch, `lengths` (B,), and for each token its frames and confidences.

    `starts` and `ends` (B, U) are the first frame of a run and the one after its last. `runs`
    maps "max", "mean", "min", "geo" to (B, U): statistics of the token's probability in its run.
    """

    tokens: Tensor
    lengths: Tensor
    starts: Tensor
    ends: Tensor
    runs: dict[str, Tensor]

    @property
    def live(self) -> Tensor:
        """True (B, U) where a token is."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    def lists(self) -> list[list[int]]:
        """Return the tokens of each utterance."""
        rows, lengths = self.tokens.tolist(), self.lengths.tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def labels(self, flags: Tensor, frames: Tensor, weights: Tensor | None = None) -> Labels:
        """Return these tokens as targets, with flags (B, U)."""
        return Labels(self.tokens, flags, frames, self.lengths, weights)


def greedy(log_probs: Tensor, frames: Tensor) -> Decoded:
    """Follow the best token of every frame of (T, B, V); equal neighbours merge, blanks go."""
    best, symbol = log_probs.transpose(0, 1).max(2)  # (B, T)
    batch, total = symbol.shape
    alive = torch.arange(total, device=symbol.device) < frames[:, None]
    symbol = symbol.masked_fill(~alive, 0)
    before = torch.cat((torch.zeros_like(symbol[:, :1]), symbol[:, :-1]), 1)
    begins = (symbol != before) & (symbol != 0)
    lengths = begins.sum(1)
    width = int(lengths.max()) if batch else 0
    place = begins.cumsum(1) - 1
    speaks = symbol != 0
    place = place.masked_fill(~speaks, width)  # a column that is cut off in the end

    def reduce(values: Tensor, how: str, start: float) -> Tensor:
        into = values.new_full((batch, width + 1), start)
        return into.scatter_reduce(1, place, values, how)[:, :width]

    time = torch.arange(total, device=symbol.device).expand(batch, -1)
    size = reduce(torch.ones_like(best), "sum", 0.0).clamp_min(1)
    runs = {
        "max": reduce(best.exp(), "amax", 0.0),
        "mean": reduce(best.exp(), "sum", 0.0) / size,
        "min": reduce(best.exp(), "amin", 1.0),
        "geo": (reduce(best, "sum", 0.0) / size).exp(),
    }
    return Decoded(
        reduce(symbol, "amax", 0),
        lengths,
        reduce(time.contiguous(), "amin", total),
        reduce(time + 1, "amax", 0),
        runs,
    )


def utterance_confidence(log_probs: Tensor, frames: Tensor) -> Tensor:
    """Return exp(mean log p) over the frames whose best token is no blank, (B,); 0 without any.

    What the first author's earlier work filters utterances by (zhu-han/CASTLE).
    """
    best, symbol = log_probs.max(2)
    alive = torch.arange(len(symbol), device=symbol.device)[:, None] < frames
    speaks = (symbol != 0) & alive
    count = speaks.sum(0)
    return torch.where(count > 0, ((best * speaks).sum(0) / count.clamp_min(1)).exp(), 0.0)
