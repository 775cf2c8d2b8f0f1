"""Long tails and wrong labels, made on purpose: the benchmark's builder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Flips of the benchmark's authors for CIFAR-10 (their random draw with seed 1).
CIFAR10_FLIPS = (6, 9, 6, 0, 0, 1, 8, 6, 2, 4)


def long_tail_counts(most: int, classes: int, factor: float) -> Array:
    """Return int(most * factor^(k / (K - 1))) for k = 0..K-1: the last class has most * factor."""
    places = np.arange(classes) / max(1, classes - 1)
    return (most * factor**places).astype(np.int64)


def long_tail(labels: Array, classes: int, factor: float, random: np.random.Generator) -> Array:
    """Return the places (sorted) of a long-tailed part of a data set with these labels (N,).

    Class 0 keeps all it has, later classes fewer and fewer, chosen at random.
    """
    sizes = np.bincount(labels, minlength=classes)
    wanted = np.minimum(long_tail_counts(int(sizes.max()), classes, factor), sizes)
    kept = [random.permutation(np.flatnonzero(labels == k))[: wanted[k]] for k in range(classes)]
    return np.sort(np.concatenate(kept))


def symmetric(classes: int, rate: float) -> Array:
    """Return T (K, K): with probability `rate` a label drawn from all classes, its own included."""
    return rate / classes * np.ones((classes, classes)) + (1 - rate) * np.eye(classes)


def asymmetric(classes: int, rate: float, random: np.random.Generator) -> Array:
    """Return T (K, K): each class turns into one other class with probability `rate`.

    Which other class is drawn at random; for ten classes it is the benchmark's map.
    """
    if classes == len(CIFAR10_FLIPS):
        other = np.array(CIFAR10_FLIPS)
    else:
        other = (np.arange(classes) + random.integers(1, classes, classes)) % classes
    matrix = (1 - rate) * np.eye(classes)
    matrix[np.arange(classes), other] += rate
    return matrix


def corrupt(labels: Array, matrix: Array, random: np.random.Generator) -> Array:
    """Return labels (N,) drawn from the rows matrix[labels] of a transition matrix (K, K)."""
    steps = matrix.cumsum(1)[labels]
    return np.minimum((random.random((len(labels), 1)) > steps).sum(1), matrix.shape[1] - 1)
