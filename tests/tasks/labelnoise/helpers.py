"""Generated samples, and the selection written out slowly, class by class, with scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

Array = NDArray[Any]


class Made(NamedTuple):
    probs: Array
    features: Array
    labels: Array
    truth: Array


def make(
    truth: Array, labels: Array, seed: int, classes: int, gap: float = 4.0, width: int = 16
) -> Made:
    """Return features 5 e_y + N(0, 1) and the softmax of logits `gap` e_y + N(0, 1)."""
    random = np.random.default_rng(seed)
    rows = np.arange(len(truth))
    features = random.normal(size=(len(truth), width))
    features[rows, truth] += 5
    logits = random.normal(size=(len(truth), classes))
    logits[rows, truth] += gap
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return Made(powers / powers.sum(1, keepdims=True), features, labels, truth)


def impostor(seed: int) -> Made:
    """Four clean classes of 500, and a fifth of 100 labels of which 90 belong to class 0."""
    truth = np.concatenate([np.repeat(np.arange(4), 500), np.zeros(90, int), np.full(10, 4)])
    labels = np.concatenate([np.repeat(np.arange(4), 500), np.full(100, 4)])
    return make(truth, labels, seed, 5)


def long_tailed(seed: int, classes: int = 6, most: int = 400, noise: float = 0.4) -> Made:
    """Class sizes from `most` down to a tenth, labels replaced at random at a rate."""
    random = np.random.default_rng(100 + seed)
    sizes = (most * 0.1 ** (np.arange(classes) / (classes - 1))).astype(int)
    truth = np.repeat(np.arange(classes), sizes)
    wrong = random.random(len(truth)) < noise
    labels = np.where(wrong, random.integers(0, classes, len(truth)), truth)
    return make(truth, labels, seed, classes, gap=3.0)


def slow_tabasco(made: Made) -> Array:
    """Return the weights of the paper's selection, by loops and scikit-learn's mixtures."""
    probs, labels = made.probs, made.labels
    classes = probs.shape[1]
    mean = np.stack([probs[labels == c].mean(0) for c in range(classes)])
    units = made.features - made.features.mean(0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    wjsd = np.empty(len(labels))
    centroids, confident = [], []
    for i, label in enumerate(labels):
        p, q = probs[i], np.eye(classes)[label]
        m = (p + q) / 2
        jsd = 0.5 * sum(x * np.log(x / y) for x, y in zip(p, m, strict=True))
        jsd += 0.5 * np.log(1 / m[label])
        wjsd[i] = min(p.max() / p[label], mean[label].max() / mean[label, label]) * jsd
    for c in range(classes):
        mine = probs[labels == c]
        t = mean[c].argmax()
        raised = mine.copy()
        raised[:, t] *= np.maximum(1, mine[:, t] / mean[c, t])
        pure = raised.mean(0)
        t = pure.argmax()
        sure = (mine.argmax(1) == t) & (mine[:, t] > pure[t])
        sure = sure if sure.any() else np.ones(len(mine), bool)
        centroids.append(units[labels == c][sure].mean(0))
        confident.append(sure.sum())
    products = np.exp(np.array(centroids) @ np.array(centroids).T)
    affinity = products / products.sum(1, keepdims=True)
    weights = np.empty(len(labels))
    for c in range(classes):
        rows = labels == c
        acd = units[rows] @ centroids[c]
        low_a, ga, a = _fit(wjsd[rows])
        low_b, _, _ = _fit(acd)
        one, two = a[low_b > 0.5], a[low_b <= 0.5]
        noisy = int(np.argmax(ga.means_))
        g = [int(ga.predict([[part.mean()]])[0]) for part in (one, two)]
        spread = [1.0, 1.0]
        for side, part in zip(g, (one, two), strict=True):
            spread[side] = part.std() or 0.1
        if g[0] == g[1] == noisy or spread[noisy] / spread[1 - noisy] < 0.65:
            weights[rows] = low_a
            continue
        others = [k for k in range(classes) if k != c]
        j = max(others, key=lambda k: affinity[c, k])
        near = abs(affinity[c, c] - affinity[c, j]) < 0.1 * affinity[c, c]
        weights[rows] = low_b if near and confident[c] < confident[j] else 1 - low_b
    return weights


def _fit(values: Array) -> tuple[Array, Any, Array]:
    """Return the posterior of the lower component, the mixture, and the scaled values."""
    scaled = (values - values.min()) / (values.max() - values.min())
    mixture = sklearn_mixture(scaled)
    low = int(mixture.means_.argmin())
    return mixture.predict_proba(scaled[:, None])[:, low], mixture, scaled


def sklearn_mixture(values: Array, iterations: int = 30) -> Any:
    """Return scikit-learn's mixture, started from the best of all cuts into two clusters.

    Its own start is a k-means from random seeds, which need not find that cut.
    """
    x = np.sort(values)
    cuts = range(1, len(x))
    cut = min(cuts, key=lambda i: i * x[:i].var() + (len(x) - i) * x[i:].var())
    parts = (x[:cut], x[cut:])
    mixture = GaussianMixture(
        2,
        max_iter=iterations,
        tol=1e-2,
        reg_covar=5e-4,
        weights_init=[len(part) / len(x) for part in parts],
        means_init=[[part.mean()] for part in parts],
        precisions_init=[[[1 / (part.var() + 5e-4)]] for part in parts],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a loose tolerance, few iterations
        return mixture.fit(values[:, None])
