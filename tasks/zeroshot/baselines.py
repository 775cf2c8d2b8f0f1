"""What needs no training: the mean below the closest ancestor, ridge regression, and ConSE."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .closure import Array, Pairs


def ancestor_rows(pairs: Pairs, seen: Array, targets: Tensor, rows: Array) -> Tensor:
    """Return unit rows (R, P): the mean of the true rows below the closest ancestor that has any.

    `seen` (S,) are the nodes of `targets` (S, P); `rows` (R,) the nodes asked for. Ancestors at
    the same distance are taken together. A class that shares no ancestor with a seen one gets
    the mean of all.
    """
    owner = np.full(pairs.count, -1)
    owner[seen] = np.arange(len(seen))
    own = owner[pairs.below] >= 0
    above = torch.from_numpy(pairs.above[own])
    part = targets[torch.from_numpy(owner[pairs.below[own]])]
    sums = targets.new_zeros(pairs.count, targets.shape[1]).index_add_(0, above, part)
    counts = torch.bincount(above, minlength=pairs.count)
    closest = _closest(pairs, counts.numpy() > 0, rows)
    row, ancestor = (torch.from_numpy(x) for x in closest)
    total = targets.new_zeros(len(rows), targets.shape[1]).index_add_(0, row, sums[ancestor])
    lonely = torch.bincount(row, minlength=len(rows)) == 0
    total[lonely] = targets.mean(0)
    return F.normalize(total, dim=1)


def _closest(pairs: Pairs, useful: Array, rows: Array) -> tuple[Array, Array]:
    """Return (place in `rows`, ancestor) of the closest ancestors-or-self that are `useful`."""
    place = np.full(pairs.count, -1)
    place[rows] = np.arange(len(rows))
    kept = (place[pairs.below] >= 0) & useful[pairs.above]
    row, above, distance = place[pairs.below[kept]], pairs.above[kept], pairs.distance[kept]
    least = np.full(len(rows), np.iinfo(np.int64).max)
    np.minimum.at(least, row, distance)
    near = distance == least[row]
    return row[near], above[near]


def related(pairs: Pairs, seen: Array) -> Array:
    """Return which nodes (N,) bool share an ancestor-or-self with a seen class."""
    member = np.zeros(pairs.count, dtype=bool)
    member[seen] = True
    useful = np.zeros(pairs.count, dtype=bool)
    useful[pairs.above[member[pairs.below]]] = True
    found = np.zeros(pairs.count, dtype=bool)
    found[pairs.below[useful[pairs.above]]] = True
    return found


def nearest_seen(pairs: Pairs, seen: Array, node: int, most: int = 5) -> list[tuple[int, int]]:
    """Return the seen classes (node, steps) closest to a node, through a common ancestor."""
    above, up = pairs.ancestors(node)
    steps = np.full(pairs.count, np.iinfo(np.int32).max, dtype=np.int64)
    steps[above] = up
    member = np.zeros(pairs.count, dtype=bool)
    member[seen] = True
    kept = member[pairs.below] & (steps[pairs.above] < np.iinfo(np.int32).max)
    total = np.full(pairs.count, np.iinfo(np.int64).max)
    np.minimum.at(total, pairs.below[kept], (steps[pairs.above] + pairs.distance)[kept])
    found = np.flatnonzero(total < np.iinfo(np.int64).max)
    order = found[np.argsort(total[found], kind="stable")][:most]
    return [(int(i), int(total[i])) for i in order]


def ridge_rows(vectors: Tensor, targets: Tensor, rows: Tensor, penalty: float = 1.0) -> Tensor:
    """Return unit rows (R, P) for vectors `rows` (R, C): X_u argmin |X W - T|^2 + penalty |W|^2."""
    x, t = vectors.double(), targets.double()
    square = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    return F.normalize((rows.double() @ torch.linalg.solve(square, x.T @ t)).float(), dim=1)


def conse_scores(logits: Tensor, vectors: Tensor, candidates: Tensor, top: int = 10) -> Tensor:
    """Return scores (n, R) in [-1, 1]: cosines of candidates with the mixture of seen vectors.

    The `top` best of softmax(`logits` (n, S)), renormalised, weigh `vectors` (S, C) of the seen
    classes (Norouzi et al. 2014).
    """
    top = min(top, logits.shape[1])
    values, places = logits.topk(top, dim=1)
    mixture = (values.softmax(1)[..., None] * vectors[places]).sum(1)
    return F.normalize(mixture, dim=1) @ F.normalize(candidates, dim=1).T
