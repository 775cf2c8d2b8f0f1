"""Ranking metrics per user, in the three readings that the literature mixes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .data import Sequences, starts_of

Ndcg = Literal["ideal", "hits", "position"]
NDCG_NAMES = {
    "ideal": "ideal DCG (formula of the paper)",
    "hits": "DCG of the hits (authors' code)",
    "position": "rank in the targets (published numbers)",
}


def is_member(users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
    """Return whether user u's sequence holds item i, elementwise (int64, same shape)."""
    owners = torch.arange(len(sequences)).repeat_interleave(sequences.lengths)
    size = 2 + max((int(part.max()) for part in (items, sequences.items) if len(part)), default=0)
    keys = (owners * size + sequences.items).sort().values
    wanted = users * size + items
    places = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return (keys[places] == wanted) & (items > 0)


def hits(lists: Tensor, targets: Sequences) -> Tensor:
    """Return which items of the lists (U, N) are targets of their user, bool (U, N)."""
    users = torch.arange(len(lists))[:, None].expand_as(lists)
    return is_member(users, lists, targets)


def distinct_targets(targets: Sequences) -> Tensor:
    """Return the number of different targets of each user, float64 (U,)."""
    owners = torch.arange(len(targets)).repeat_interleave(targets.lengths)
    pairs = torch.stack((owners, targets.items.long()), 1).unique(dim=0)
    return torch.bincount(pairs[:, 0], minlength=len(targets)).double()


def recall(found: Tensor, targets: Sequences, denominator: Literal["sets", "list"]) -> Tensor:
    """Return hits over targets per user, float64 (U,): `found` is what `hits` returns.

    "sets" counts a repeated target once (paper), "list" every time (authors' code).
    """
    total = distinct_targets(targets) if denominator == "sets" else targets.lengths.double()
    return found.sum(1) / total


def hit_rate(found: Tensor) -> Tensor:
    """Return 1 for each user with a hit, else 0, float64 (U,)."""
    return found.any(1).double()


def dcg(found: Tensor) -> Tensor:
    """Return the sum over hits at rank k = 1, 2, ... of 1 / log2(k + 1), float64 (U,)."""
    return (found * discounts(found.shape[1])).sum(1)


def discounts(count: int) -> Tensor:
    """Return 1 / log2(k + 1) for k = 1..count, float64."""
    return 1 / torch.arange(2, count + 2, dtype=torch.float64).log2()


def ideal_dcg(count: Tensor, longest: int) -> Tensor:
    """Return the DCG of `count` (U,) hits at the first ranks, of `longest` at most."""
    sums = torch.cat((torch.zeros(1, dtype=torch.float64), discounts(longest).cumsum(0)))
    return sums[count.long().clamp_max(longest)]


def ndcg(lists: Tensor, targets: Sequences, kind: Ndcg) -> Tensor:
    """Return the normalised DCG of the lists (U, N) per user, float64 (U,), in [0, 1].

    "ideal" divides by the best DCG that the user's targets allow; "hits" by the DCG of as many
    hits as were made, at the top; "position" is "hits" with each target's rank among the user's
    own targets in the place of its rank in the list. The kinds do not compare.
    """
    found = hits(lists, targets)
    if kind == "position":
        found = _found_targets(lists, targets)
    best = distinct_targets(targets) if kind == "ideal" else found.sum(1)
    reached = ideal_dcg(best, found.shape[1])
    return torch.where(reached > 0, dcg(found) / reached.clamp_min(1e-12), 0.0)


def _found_targets(lists: Tensor, targets: Sequences) -> Tensor:
    """Return which targets stand in the list of their user, in the order of the targets."""
    width = int(targets.lengths.max())
    rows = targets.last(width)
    there = lists > 0
    listed = Sequences(lists[there].int(), starts_of(there.sum(1)))
    users = torch.arange(len(lists))[:, None].expand_as(rows)
    return is_member(users, rows, listed)
