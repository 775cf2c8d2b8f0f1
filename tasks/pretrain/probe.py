"""What features are worth: linear probe, neighbours, retrieval. Features are (N, D) float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...core.metrics import Proportion
from ...core.retrieval import top_k

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
KNN_TEMPERATURE = 0.1


def folds_by_group(groups: Sequence[str]) -> list[Fold]:
    """Return (train, test) places that leave one group out at a time."""
    every = np.array(groups)
    return [
        (np.flatnonzero(every != group), np.flatnonzero(every == group))
        for group in sorted(set(groups))
    ]


def folds_at_random(labels: Sequence[int], seed: int, count: int = 5) -> list[Fold]:
    """Return (train, test) places of `count` folds in which classes are spread evenly."""
    random = np.random.default_rng(seed)
    every = np.array(labels)
    fold = np.empty(len(every), np.int64)
    for label in np.unique(every):
        places = random.permutation(np.flatnonzero(every == label))
        fold[places] = (np.arange(len(places)) + random.integers(count)) % count
    pairs = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]
    return [(train, test) for train, test in pairs if len(train) and len(test)]


def linear_probe(features: Tensor, labels: Sequence[int], folds: Sequence[Fold]) -> Proportion:
    """Return how often logistic regression on standardised features names the label.

    L2 penalty of weight 1 (not tuned), L-BFGS.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = features.double().numpy(), np.array(labels)
    hits = total = 0
    for train, test in folds:
        model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        if len(np.unique(y[train])) < 2:
            found = np.full(len(test), y[train][0])
        else:
            found = model.fit(x[train], y[train]).predict(x[test])
        hits, total = hits + int((found == y[test]).sum()), total + len(test)
    return Proportion(hits, total)


def knn(features: Tensor, labels: Sequence[int], folds: Sequence[Fold], k: int) -> Proportion:
    """Return how often the k nearest by cosine, with votes exp(cosine / 0.1), name the label."""
    z, y = F.normalize(features, dim=1), torch.tensor(labels)
    hits = total = 0
    for train, test in folds:
        gallery = torch.from_numpy(train)
        scores, places = top_k(z[test], z[gallery], min(k, len(train)))
        voted = _vote(scores, y[gallery][places], int(y.max()) + 1)
        hits, total = hits + int((voted == y[test]).sum()), total + len(test)
    return Proportion(hits, total)


def knn_left_out(features: Tensor, labels: Sequence[int], k: int) -> float:
    """Return how often the neighbours of each sample among all others name its label."""
    z, y = F.normalize(features, dim=1), torch.tensor(labels)
    own = torch.arange(len(z))
    scores, places = top_k(z, z, min(k, len(z) - 1), exclude=(own, own))
    return float((_vote(scores, y[places], int(y.max()) + 1) == y).float().mean())


def _vote(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    weights = ((scores - scores[:, :1]) / KNN_TEMPERATURE).exp()
    return torch.zeros(len(scores), classes).scatter_add_(1, labels, weights).argmax(1)


class Found(NamedTuple):
    """How well like finds like: hits among the nearest, and mean average precision."""

    rank1: Proportion
    mean_ap: float


def same_video(views: Tensor) -> Found:
    """Return how well the last clip of each video finds the first of its own; views (N, V, D)."""
    numbers = torch.arange(len(views))
    first, last = (F.normalize(views[:, i], dim=1) for i in (0, -1))
    return retrieve(last @ first.T, numbers, numbers)


def same_group(features: Tensor, groups: Sequence[str]) -> Found:
    """Return how well each video finds others of its group; those alone in theirs do not ask."""
    names = sorted(set(groups))
    numbers = torch.tensor([names.index(group) for group in groups])
    z = F.normalize(features, dim=1)
    scores = (z @ z.T).fill_diagonal_(-torch.inf)
    asks = (numbers[:, None] == numbers).sum(1) > 1
    return retrieve(scores[asks], numbers[asks], numbers)


def retrieve(scores: Tensor, queries: Tensor, gallery: Tensor) -> Found:
    """Return the hits at rank 1 and the mean average precision of scores (Q, n).

    A gallery item is right when its number is that of the query; scores of -inf are left out.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    right = (gallery[order] == queries[:, None]) & (scores.gather(1, order) > -torch.inf)
    ranks = torch.arange(1, right.shape[1] + 1)
    precision = right.cumsum(1) / ranks
    average = (precision * right).sum(1) / right.sum(1).clamp_min(1)
    return Found(Proportion(int(right[:, 0].sum()), len(right)), float(average.mean()))
