from __future__ import annotations

import numpy as np
import pytest

from mlkit.tasks.labelnoise.noise import (
    CIFAR10_FLIPS,
    asymmetric,
    corrupt,
    long_tail,
    long_tail_counts,
    symmetric,
)


@pytest.mark.parametrize(
    ("most", "classes", "factor", "total"),
    [
        (5000, 10, 0.1, 20431),
        (5000, 10, 0.01, 12406),
        (500, 100, 0.1, 19573),
        (500, 100, 0.01, 10847),
    ],
)
def test_sizes_of_the_benchmarks(most: int, classes: int, factor: float, total: int) -> None:
    assert long_tail_counts(most, classes, factor).sum() == total


def test_the_tail_keeps_what_it_should() -> None:
    labels = np.repeat(np.arange(4), 100)
    kept = long_tail(labels, 4, 0.1, np.random.default_rng(0))
    assert list(np.bincount(labels[kept])) == list(long_tail_counts(100, 4, 0.1))
    assert (np.diff(kept) > 0).all()


@pytest.mark.parametrize("kind", ["sym", "asym", "free"])
def test_labels_turn_as_the_matrix_says(kind: str) -> None:
    random = np.random.default_rng(1)
    matrix = {
        "sym": symmetric(5, 0.4),
        "asym": asymmetric(5, 0.3, random),
        "free": random.dirichlet(np.ones(5), 5),
    }[kind]
    assert matrix.sum(1) == pytest.approx(np.ones(5))
    truth = np.repeat(np.arange(5), 4000)
    given = corrupt(truth, matrix, random)
    found = np.bincount(truth * 5 + given, minlength=25).reshape(5, 5) / 4000
    deviation = np.sqrt(matrix * (1 - matrix) / 4000)
    assert (np.abs(found - matrix) <= 3.5 * deviation + 1e-9).all()


def test_the_maps_of_asymmetric_noise() -> None:
    ten = asymmetric(10, 0.4, np.random.default_rng(0))
    assert (ten[np.arange(10), CIFAR10_FLIPS] == 0.4).all()
    other = asymmetric(7, 0.2, np.random.default_rng(0))
    assert np.diagonal(other) == pytest.approx(np.full(7, 0.8))
    assert ((other > 0).sum(1) == 2).all()
