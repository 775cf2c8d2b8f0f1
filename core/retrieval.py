"""Exact nearest items by inner product, in blocks: memory does not grow with the catalogue."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_SCORES = 1 << 22  # scores held at once: 16 MiB of float32, which stays near the cache


def top_k(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    skip_first: int = 0,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k best items of each query: (scores (Q, k), numbers (Q, k) int64), best first.

    `queries` is (Q, d), or (Q, K, d) for f(q, i) = max_k q_k . i. `items` is (n, d); the first
    `skip_first` are never returned. `exclude` is (queries, items), int64 pairs that must not be
    returned either. A query with fewer than k items left ends with score -inf and number -1.
    """
    if queries.dim() == 2:
        queries = queries[:, None]
    count, parts, dim = queries.shape
    k = min(k, len(items) - skip_first)
    flat = queries.reshape(-1, dim)
    best = flat.new_full((count, k), -torch.inf)
    numbers = torch.full((count, k), -1, device=flat.device)
    excluded = _Excluded(exclude) if exclude is not None else None
    block = max(k, BLOCK_SCORES // max(1, len(flat)), 256)
    for begin in range(skip_first, len(items), block):
        part = items[begin : begin + block]
        scores = (flat @ part.T).view(count, parts, -1).amax(1)
        if excluded is not None:
            excluded.mask(scores, begin)
        values, places = scores.topk(min(k, scores.shape[1]))
        values, order = torch.cat((best, values), 1).topk(k)
        numbers = torch.cat((numbers, places + begin), 1).gather(1, order)
        best = values
    return best, numbers.masked_fill(best == -torch.inf, -1)


class _Excluded:
    """Pairs (query, item) sorted by item, so that a block of items finds its own by bisection."""

    def __init__(self, pairs: tuple[Tensor, Tensor]) -> None:
        self.items, order = pairs[1].sort()
        self.queries = pairs[0][order]

    def mask(self, scores: Tensor, begin: int) -> None:
        """Set the excluded entries of the scores (Q, block) of items from `begin` on to -inf."""
        edges = torch.tensor((begin, begin + scores.shape[1]), device=self.items.device)
        low, high = torch.searchsorted(self.items, edges).tolist()
        scores[self.queries[low:high], self.items[low:high] - begin] = -torch.inf
