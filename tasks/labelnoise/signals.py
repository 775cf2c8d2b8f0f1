"""What the selection looks at: probabilities and features become a few numbers per sample.

Probabilities (N, K) and features (N, d) may be memory maps; they are read block by block, so
that memory grows with N and K * (K + d), never with N * K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Array = NDArray[Any]

BLOCK_BYTES = 1 << 26
TINY = 1e-12  # probabilities below count as this
LN2 = float(np.log(2))


@dataclass(frozen=True)
class Signals:
    """Per sample (N,): label, its probability, the largest one and whose it is, JSD, WJSD, ACD.

    `acd` is a similarity: large means near the centroid of the label's confident samples, which
    may be the centroid of another class. Per class (K,): `target`, the class that its mean
    prediction peaks at, and `confident`, how many samples its centroid rests on. `affinity`
    (K, K) is the row-softmax of the centroids' inner products.
    """

    labels: Array
    classes: int
    p_given: Array
    p_max: Array
    predicted: Array
    jsd: Array
    wjsd: Array
    acd: Array
    target: Array
    confident: Array
    affinity: Array
    fallback: int  # classes whose confident set was empty: all samples served

    @property
    def counts(self) -> Array:
        """Samples per observed class (K,)."""
        return np.bincount(self.labels, minlength=self.classes)


def divergence(p: Array) -> Array:
    """Return the Jensen-Shannon divergence of a prediction and a one-hot label.

    It depends on the label's probability p alone: (2 ln 2 + p ln p - (1 + p) ln(1 + p)) / 2, in
    [0, ln 2], falling.
    """
    p = np.clip(np.asarray(p, dtype=np.float64), 0, 1)
    safe = np.maximum(p, 1e-300)
    return np.clip(0.5 * (2 * LN2 + p * np.log(safe) - (1 + p) * np.log1p(p)), 0, LN2)


def compute(probs: Array, features: Array, labels: Array, spaces: Array | None = None) -> Signals:
    """Return the signals of `probs` (N, K), `features` (N, d) and `labels` (N,) in 0..K-1.

    `spaces` (N,) numbers the network that each row came from where there were several (folds):
    features are then centred and averaged within one network, whose axes mean the same.
    Source: Lu et al. 2023, sections 3.2 (WJSD) and 3.3 (ACD), as in the authors' code.
    """
    classes = probs.shape[1]
    spaces = np.zeros(len(labels), dtype=np.int64) if spaces is None else spaces
    p_given, p_max, predicted, means = _first_pass(probs, labels)
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    own = means[np.arange(classes), np.arange(classes)]
    cap = means.max(1) / np.maximum(own, TINY)
    jsd = divergence(p_given)
    ratio = p_max / np.maximum(p_given, TINY)
    wjsd = np.minimum(ratio, cap[labels]) * jsd
    # Purification multiplies the peak of a class's mean by more than one: it stays the peak.
    target = means.argmax(1)
    peak = means[np.arange(classes), target]
    at_target = _gather(probs, target[labels])
    raised = at_target * np.maximum(1, at_target / np.maximum(peak, TINY)[labels])
    purified = np.bincount(labels, raised, classes) / counts
    sure = (predicted == target[labels]) & (at_target > purified[labels])
    confident = np.bincount(labels[sure], minlength=classes)
    empty = confident == 0
    sure |= empty[labels]
    confident = np.where(empty, np.bincount(labels, minlength=classes), confident)
    acd, affinity = _centroids(features, labels, classes, sure, spaces)
    present = np.bincount(labels, minlength=classes) > 0
    return Signals(
        labels, classes, p_given, p_max, predicted, jsd, wjsd, acd, target, confident, affinity,
        int((empty & present).sum()),
    )  # fmt: skip


def blocks(array: Array) -> Iterator[slice]:
    """Yield row slices of about 64 MB each."""
    rows = max(1, BLOCK_BYTES // max(1, array.shape[1] * 8))
    for begin in range(0, len(array), rows):
        yield slice(begin, min(begin + rows, len(array)))


def _first_pass(probs: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
    """Return p of the label, largest p, its class (N,), and mean predictions (K, K)."""
    count, classes = probs.shape
    given, largest = np.empty(count), np.empty(count)
    predicted = np.empty(count, dtype=np.int64)
    sums = np.zeros((classes, classes))
    for part in blocks(probs):
        block = np.asarray(probs[part], dtype=np.float64)
        rows = np.arange(len(block))
        predicted[part] = block.argmax(1)
        largest[part] = block[rows, predicted[part]]
        given[part] = block[rows, labels[part]]
        sums += class_sums(block, labels[part], classes)
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return given, largest, predicted, sums / counts[:, None]


def class_sums(rows: Array, groups: Array, count: int) -> Array:
    """Return the sums (count, d) of rows (n, d) by group."""
    ones = np.ones(len(groups), dtype=rows.dtype)
    table = csr_matrix((ones, (groups, np.arange(len(groups)))), shape=(count, len(groups)))
    return table @ rows


def _gather(probs: Array, columns: Array) -> Array:
    """Return probs[i, columns[i]] (N,), reading block by block."""
    found = np.empty(len(probs))
    for part in blocks(probs):
        block = probs[part]
        found[part] = block[np.arange(len(block)), columns[part]]
    return found


def _centroids(
    features: Array, labels: Array, classes: int, sure: Array, spaces: Array
) -> tuple[Array, Array]:
    """Return ACD (N,) and the centroids' affinity (K, K), averaged over spaces."""
    count, width = int(spaces.max()) + 1, features.shape[1]
    groups = spaces * classes + labels
    sizes = np.bincount(spaces, minlength=count)
    mean = np.zeros((count, width))
    for part in blocks(features):
        mean += class_sums(np.asarray(features[part], np.float64), spaces[part], count)
    mean /= np.maximum(sizes, 1)[:, None]
    # A class without a confident sample in one of the spaces is represented by all there.
    lacking = np.bincount(groups[sure], minlength=count * classes) == 0
    sure = sure | lacking[groups]
    sums = np.zeros((count * classes, width))
    for part in blocks(features):
        units = _units(features[part], mean[spaces[part]])
        chosen = sure[part]
        sums += class_sums(units[chosen], groups[part][chosen], count * classes)
    members = np.bincount(groups[sure], minlength=count * classes)
    centroids = sums / np.maximum(members, 1)[:, None]
    similarity = np.empty(len(labels))
    for part in blocks(features):
        units = _units(features[part], mean[spaces[part]])
        similarity[part] = (units * centroids[groups[part]]).sum(1)
    return similarity, _affinity(centroids.reshape(count, classes, width))


def _units(features: Array, mean: Array) -> Array:
    centred = np.asarray(features, dtype=np.float64) - mean
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(norms, TINY)


def _affinity(centroids: Array) -> Array:
    products = centroids @ centroids.swapaxes(1, 2)
    powers = np.exp(products - products.max(2, keepdims=True))
    return (powers / powers.sum(2, keepdims=True)).mean(0)
