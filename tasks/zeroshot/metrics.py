"""Ranks, hit@k, per-class accuracy, hierarchical precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .closure import Array, Pairs

KS = (1, 2, 5, 10, 20)


def ranks(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the rank (n,) of the true candidate: how many score at least as much, itself too.

    `scores` (n, R), `truth` (n,) int64 places. Ties count against the true class.
    """
    own = scores.gather(1, truth[:, None])
    return (scores >= own).sum(1)


def hits(found: Tensor, classes: Tensor, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """Return hit@k over photos, and "class@k", the mean over classes, in [0, 1].

    `found` (n,) are ranks, `classes` (n,) int64 the true class of each photo.
    """
    counts = torch.bincount(classes).double()
    result = {}
    for k in ks:
        hit = (found <= k).double()
        result[f"hit@{k}"] = float(hit.mean())
        per_class = torch.bincount(classes, hit) / counts
        result[f"class@{k}"] = float(per_class[counts > 0].mean())
    return result


def tree_distances(pairs: Pairs, node: int, candidates: Array) -> Array:
    """Return the steps (R,) from a node to candidates through their best common ancestor.

    The largest integer stands for no common ancestor.
    """
    far = np.iinfo(np.int64).max
    above, up = pairs.ancestors(node)
    steps = np.full(pairs.count, -1)
    steps[above] = up
    kept = steps[pairs.above] >= 0
    total = np.full(pairs.count, far)
    np.minimum.at(total, pairs.below[kept], steps[pairs.above[kept]] + pairs.distance[kept])
    return total[candidates]


def hierarchical_precision(
    scores: Tensor, truth: Tensor, pairs: Pairs, candidates: Array, ks: tuple[int, ...] = (5, 20)
) -> dict[str, float]:
    """Return "hp@k" in [0, 1]: the part of the k best that lies among the classes nearest to truth.

    The correct set of a class are all candidates within the smallest tree distance that reaches
    k of them (Frome et al. 2013).
    """
    result = {}
    most = min(max(ks), scores.shape[1])
    order = scores.topk(most, dim=1).indices.numpy()
    near = {int(t): tree_distances(pairs, int(candidates[t]), candidates) for t in truth.unique()}
    for k in ks:
        size = min(k, most)
        parts = []
        for row, place in zip(order, truth.tolist(), strict=True):
            distance = near[place]
            radius = np.partition(distance, size - 1)[size - 1]
            parts.append((distance[row[:size]] <= radius).mean())
        result[f"hp@{k}"] = float(np.mean(parts))
    return result
