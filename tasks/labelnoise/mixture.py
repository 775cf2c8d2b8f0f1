"""Two Gaussians on a line, fitted to every class at once.

scikit-learn's `GaussianMixture` fits one class per call; here the samples of all classes lie
behind one another and sums over a class are one `bincount`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_EPSILON = 10 * np.finfo(np.float64).eps  # keeps the weight of an empty component positive


@dataclass(frozen=True)
class Mixtures:
    """Two components per class, sorted by mean: `means`, `variances`, `weights` (K, 2)."""

    means: Array
    variances: Array
    weights: Array

    def high(self, values: Array, groups: Array) -> Array:
        """Return the posterior (n,) in [0, 1] of the upper component of class `groups[i]`."""
        joint = self._log_joint(values, groups)
        return 1 / (1 + np.exp(np.clip(joint[:, 0] - joint[:, 1], -700, 700)))

    def _log_joint(self, values: Array, groups: Array) -> Array:
        offset = np.log(self.weights) - 0.5 * np.log(2 * np.pi * self.variances)
        scaled = (values[:, None] - self.means[groups]) ** 2 / self.variances[groups]
        return offset[groups] - 0.5 * scaled


def fit_mixtures(
    values: Array,
    groups: Array,
    classes: int,
    *,
    iterations: int = 30,
    tolerance: float = 1e-2,
    floor: float = 5e-4,
) -> Mixtures:
    """Fit two Gaussians to `values` (n,) of each of `classes` classes `groups` (n,) by EM.

    It starts from the best split into two clusters (k-means, exact on a line) and is therefore
    deterministic. A class stops when the mean log-likelihood rises by less than `tolerance`;
    `floor` is added to variances. A class without samples gets two equal components.
    """
    values = values.astype(np.float64)
    high = _best_split(values, groups, classes).astype(np.float64)
    counts = np.bincount(groups, minlength=classes)
    mixtures = _maximise(values, groups, classes, high, floor)
    before = np.full(classes, -np.inf)
    running = counts > 0
    for _ in range(iterations):
        joint = mixtures._log_joint(values, groups)
        total = np.logaddexp(joint[:, 0], joint[:, 1])
        updated = _maximise(values, groups, classes, np.exp(joint[:, 1] - total), floor)
        mixtures = _keep(running, updated, mixtures)
        bound = np.bincount(groups, total, classes) / np.maximum(counts, 1)
        running = running & ~(np.abs(bound - before) < tolerance)
        before = bound
        if not running.any():
            break
    order = np.argsort(mixtures.means, axis=1, kind="stable")
    means, variances, weights = (
        np.take_along_axis(part, order, 1)
        for part in (mixtures.means, mixtures.variances, mixtures.weights)
    )
    return Mixtures(means, variances, weights)


def _keep(running: Array, updated: Mixtures, old: Mixtures) -> Mixtures:
    """Take the update where a class is still running."""
    chosen = running[:, None]
    return Mixtures(
        np.where(chosen, updated.means, old.means),
        np.where(chosen, updated.variances, old.variances),
        np.where(chosen, updated.weights, old.weights),
    )


def _maximise(values: Array, groups: Array, classes: int, high: Array, floor: float) -> Mixtures:
    """Return the parameters for responsibilities `high` (n,) of the second component."""

    def sums(weights: Array) -> Array:
        return np.bincount(groups, weights, classes)

    both = (1 - high, high)
    mass = np.stack([sums(part) for part in both], 1) + _EPSILON
    means = np.stack([sums(part * values) for part in both], 1) / mass
    squares = [sums(p * (values - means[groups, j]) ** 2) for j, p in enumerate(both)]
    variances = np.stack(squares, 1) / mass + floor
    return Mixtures(means, variances, mass / mass.sum(1, keepdims=True))


def _best_split(values: Array, groups: Array, classes: int) -> Array:
    """Return which samples (n,) bool lie in the upper of two clusters of their class.

    Of all cuts of the sorted samples the one with the least sum of squares within clusters.
    """
    order = np.lexsort((values, groups))
    x, g = values[order], groups[order]
    counts = np.bincount(groups, minlength=classes)
    ends = np.cumsum(counts)
    starts = ends - counts
    # Prefix sums of a class on its own: differences of global ones would lose digits.
    place = np.arange(len(x)) - starts[g]
    sums = np.cumsum(x)
    below = sums - np.where(starts > 0, sums[starts - 1], 0.0)[g]
    total = np.bincount(g, x, classes)[g]
    lower, upper = place + 1, counts[g] - place - 1
    # Least squares within is most squares between: (sum)^2 / size, summed over both clusters.
    between = below**2 / lower + (total - below) ** 2 / np.maximum(upper, 1)
    between[upper == 0] = -np.inf
    best = np.full(classes, -np.inf)
    np.maximum.at(best, g, between)
    is_best = between >= best[g]
    cut = np.full(classes, len(x))
    np.minimum.at(cut, g[is_best], place[is_best])
    high = np.zeros(len(values), dtype=bool)
    high[order] = place > cut[g]
    return high
