"""From interests to one list: exact retrieval, and the greedy merge with the diversity dial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.retrieval import top_k

PAIRS = 1 << 25  # similarities held at once: 128 MiB of float32


class Lists(NamedTuple):
    """Recommendations: item numbers (U, N) with -1 behind short lists, f, proposing interest."""

    items: Tensor
    scores: Tensor
    interests: Tensor


@dataclass(frozen=True)
class Labels:
    """Categories of items: one number each, int64 (n + 1,), or label sets, bool (n + 1, L)."""

    values: Tensor

    def similarity(self, items: Tensor) -> Tensor:
        """Return 1 - g between the items of each row of (U, C): float32 (U, C, C).

        g is 1 for different categories; for label sets it is 1 - Jaccard's index (an item
        without labels is like none). -1 is no item; its entries mean nothing.
        """
        found = self.values[items.clamp_min(0)]
        if self.values.dim() == 1:
            return (found[:, :, None] == found[:, None, :]).float()
        sets = found.float()
        both = sets @ sets.transpose(1, 2)
        sizes = sets.sum(2)
        return both / (sizes[:, :, None] + sizes[:, None, :] - both).clamp_min(1)

    def diversity(self, items: Tensor) -> Tensor:
        """Return the mean g over pairs of each list (U, N), float64 (U,); -1 is no item.

        A list of fewer than two items has diversity 0.
        """
        return torch.cat([self._diversity(part) for part in items.split(_rows(items))])

    def _diversity(self, items: Tensor) -> Tensor:
        there = (items >= 0).double()
        pairs = there[:, :, None] * there[:, None, :]
        different = (1 - self.similarity(items).double()) * pairs
        apart = different.sum((1, 2)) - different.diagonal(dim1=1, dim2=2).sum(1)
        count = there.sum(1)
        return apart / (count * (count - 1)).clamp_min(1)


def _rows(items: Tensor) -> int:
    """Return how many rows of (U, C) may be compared pair by pair at once."""
    return max(1, PAIRS // max(1, items.shape[1] ** 2))


def greedy(scores: Tensor, similarity: Tensor, count: int, dial: float) -> Tensor:
    """Choose `count` of C candidates greedily; returns their places (U, count), -1 behind.

    Each step takes argmax of f + lambda * sum over chosen s of g(i, s) (Algorithm 2), in the
    equal form f - lambda * sum of 1 - g. `scores` f (U, C) fall along each row, so that ties go
    to the higher f; -inf is no candidate. `similarity` is 1 - g, (U, C, C).
    """
    adjusted = scores.clone()
    rows = torch.arange(len(scores), device=scores.device)
    chosen = []
    for _ in range(min(count, scores.shape[1])):
        value, place = adjusted.max(1)
        chosen.append(place.masked_fill(value == -torch.inf, -1))
        adjusted -= dial * similarity[rows, place]
        adjusted[rows, place] = -torch.inf
    return torch.stack(chosen, 1)


class Candidates(NamedTuple):
    """Items (U, C) that some interest proposes, by falling f; -1 and f = -inf is none."""

    items: Tensor
    scores: Tensor
    interests: Tensor

    def merge(self, count: int, dial: float, labels: Labels) -> Lists:
        """Return the `count` items that the greedy choice takes with this value of the dial."""
        step = _rows(self.items)
        parts = zip(self.items.split(step), self.scores.split(step), strict=True)
        places = torch.cat(
            [greedy(scores, labels.similarity(items), count, dial) for items, scores in parts]
        )
        there, at = places >= 0, places.clamp_min(0)
        return Lists(
            self.items.gather(1, at).masked_fill(~there, -1),
            self.scores.gather(1, at).masked_fill(~there, -torch.inf),
            self.interests.gather(1, at),
        )


def recommend_lists(
    interests: Tensor,
    item_vectors: Tensor,
    count: int,
    *,
    dial: float = 0.0,
    labels: Labels | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> Lists:
    """Return the `count` items of each user from interests (U, K, d) and the table (n + 1, d).

    With `dial` 0 the best by f(u, i) = max_k V_k . e_i (equation 9); above it, the greedy choice
    among the union of the interests' own top lists. Row 0 of the table is never recommended;
    `exclude` holds pairs (user, item) that are not either.
    """
    if dial == 0 or labels is None:
        scores, items = top_k(interests, item_vectors, count, skip_first=1, exclude=exclude)
        return Lists(items, scores, _best_interest(interests, item_vectors, items)[1])
    return candidates(interests, item_vectors, count, exclude).merge(count, dial, labels)


def candidates(
    interests: Tensor,
    item_vectors: Tensor,
    count: int,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> Candidates:
    """Return the union of the top lists of all interests, `count` items each.

    C is K * count; an item that several interests propose stands once.
    """
    users, parts, dim = interests.shape
    if exclude is not None:
        every = torch.arange(parts, device=interests.device)
        rows = (exclude[0][:, None] * parts + every).flatten()
        exclude = rows, exclude[1].repeat_interleave(parts)
    flat = interests.reshape(-1, dim)
    _, found = top_k(flat, item_vectors, count, skip_first=1, exclude=exclude)
    items = found.view(users, -1).sort(1).values
    repeated = torch.zeros_like(items, dtype=torch.bool)
    repeated[:, 1:] = items[:, 1:] == items[:, :-1]
    items = items.masked_fill(repeated, -1)
    scores, who = _best_interest(interests, item_vectors, items)
    scores = scores.masked_fill(items < 0, -torch.inf)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Candidates(items.gather(1, order), scores, who.gather(1, order))


def _best_interest(interests: Tensor, item_vectors: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return f and its interest k for items (U, C): max and argmax of V_k . e_i."""
    vectors = item_vectors[items.clamp_min(0)]
    best = (vectors @ interests.transpose(1, 2)).max(2)
    return best.values, best.indices
