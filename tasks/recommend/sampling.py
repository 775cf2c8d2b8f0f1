"""Batches of histories, targets and shared negatives, drawn without a loop over users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .data import Sequences, window

LEAST_HISTORY = 4  # items before the first target of a training user, where there are as many


class Batch(NamedTuple):
    """What a step sees: histories (B, T) left-aligned with 0 behind, targets (B,), negatives.

    `negatives` (m,) and the two expected log counts are empty for the full softmax.
    """

    histories: Tensor
    targets: Tensor
    negatives: Tensor
    target_log_counts: Tensor
    negative_log_counts: Tensor


@dataclass(frozen=True)
class LogUniform:
    """Zipf's law over ids 0..rows-1: P(c) = log((c + 2) / (c + 1)) / log(rows + 1).

    Fits items numbered by falling frequency only. TensorFlow's `log_uniform_candidate_sampler`.
    """

    rows: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` ids, int64, with replacement."""
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        ids = (uniform * _log(self.rows + 1.0)).exp().long() - 1
        return ids.clamp_(0, self.rows - 1)

    def probability(self, ids: Tensor) -> Tensor:
        """Return P of each id, float64."""
        ids = ids.double()
        return ((ids + 2) / (ids + 1)).log() / _log(self.rows + 1.0)


@dataclass(frozen=True)
class Uniform:
    """Every id 0..rows-1 alike."""

    rows: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` ids, int64, with replacement."""
        return torch.randint(self.rows, (count,), generator=generator)

    def probability(self, ids: Tensor) -> Tensor:
        """Return P of each id, float64."""
        return torch.full(ids.shape, 1 / self.rows, dtype=torch.float64)


def _log(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log())


Law = LogUniform | Uniform


def draw_distinct(law: Law, count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Draw until `count` distinct ids are found: (ids in order of first sight, draws needed)."""
    draws = law.draw(2 * count, generator)
    while True:
        ids, places = draws.sort(stable=True)
        first = torch.ones(len(ids), dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        seen = places[first].sort().values  # stable: the first place of a run is its first sight
        if len(seen) >= count:
            return draws[seen[:count]], int(seen[count - 1]) + 1
        draws = torch.cat((draws, law.draw(len(draws), generator)))


def log_expected_count(law: Law, ids: Tensor, draws: int) -> Tensor:
    """Return log Q, Q = 1 - (1 - P)^draws: how often an id is expected among the negatives."""
    return (-torch.expm1(draws * torch.log1p(-law.probability(ids)))).log().float()


@dataclass(frozen=True)
class Histories:
    """Training users as a source of batches: a random cut makes history and target of each.

    `negatives` is how many are shared by a batch, per row of it; 0 with `loss` "full".
    """

    sequences: Sequences
    rows: int
    width: int
    negatives: int
    loss: Literal["sampled", "uniform", "full"] = "sampled"

    def __len__(self) -> int:
        return len(self.sequences)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Return the batch of some users; cut k is uniform in 4..length-1 (fewer if short)."""
        lengths = self.sequences.lengths[indices]
        least = (lengths - 1).clamp_max(LEAST_HISTORY)
        spread = (lengths - least).double()
        cuts = least + (torch.rand(len(indices), generator=generator).double() * spread).long()
        ends = self.sequences.starts[:-1][indices] + cuts
        histories = window(self.sequences.items, ends, cuts.clamp_max(self.width), self.width)
        targets = self.sequences.items[ends].long()
        if self.loss == "full":
            none = torch.zeros(0)
            return Batch(histories, targets, none.long(), none, none)
        law: Law = LogUniform(self.rows) if self.loss == "sampled" else Uniform(self.rows)
        # Half of the table at most: distinct draws of nearly all ids would take for ever.
        count = max(1, min(self.negatives * len(indices), self.rows // 2))
        sampled, draws = draw_distinct(law, count, generator)
        return Batch(
            histories,
            targets,
            sampled,
            log_expected_count(law, targets, draws),
            log_expected_count(law, sampled, draws),
        )
