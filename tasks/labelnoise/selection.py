"""Which labels are clean: the two stages of TABASCO, and the selectors it is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MissingExtraError
from .mixture import Mixtures, fit_mixtures
from .signals import TINY, Signals

Array = NDArray[Any]

FEWEST = 8  # classes with fewer samples are not judged
STD_RATIO, MARGIN, ZERO_STD = 0.65, 0.1, 0.1  # constants of the authors' code


@dataclass(frozen=True)
class Selection:
    """The verdict on every sample: `clean` (N,) bool, `weight` (N,) in [0, 1] that it is clean.

    `metric` (K,) names what decided in each class ("wjsd", "acd", "impostor", "too_few",
    "constant", or the selector's own name).
    """

    clean: Array
    weight: Array
    metric: Array = field(default_factory=lambda: np.zeros(0, dtype=object))


def tabasco(signals: Signals) -> Selection:
    """Separate each class by WJSD and by ACD, then choose metric and cluster (sections 3.4, 3.5).

    Classes with fewer than 8 samples, or whose WJSD or ACD is constant, are kept whole.
    """
    labels, classes = signals.labels, signals.classes
    a, flat_a = _scaled(signals.wjsd, labels, classes)
    b, flat_b = _scaled(signals.acd, labels, classes)
    mixture_a, mixture_b = fit_mixtures(a, labels, classes), fit_mixtures(b, labels, classes)
    low_a = 1 - mixture_a.high(a, labels)
    high_b = mixture_b.high(b, labels)
    dissimilar = 1 - high_b > 0.5
    by_wjsd = _prefers_wjsd(a, labels, classes, dissimilar, mixture_a)
    impostor = _impostors(signals)
    weight = np.where(by_wjsd[labels], low_a, np.where(impostor[labels], 1 - high_b, high_b))
    metric = np.where(by_wjsd, "wjsd", np.where(impostor, "impostor", "acd")).astype(object)
    metric[flat_a | flat_b] = "constant"
    return _with_small_classes(weight, metric, signals)


def _scaled(values: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """Return values scaled to [0, 1] within each class, and which classes are constant."""
    low, high = np.full(classes, np.inf), np.full(classes, -np.inf)
    np.minimum.at(low, labels, values)
    np.maximum.at(high, labels, values)
    span = high - low
    flat = ~(span > TINY)
    scale = np.where(flat, 1.0, span)
    return (values - np.where(np.isfinite(low), low, 0)[labels]) / scale[labels], flat


def _prefers_wjsd(
    a: Array, labels: Array, classes: int, dissimilar: Array, mixture: Mixtures
) -> Array:
    """Return the classes (K,) bool in which WJSD decides.

    The two ACD clusters are looked at through WJSD: if both lie in its noisy component, or the
    noisy one of them is much narrower than the clean one, ACD separates nothing.
    """
    every = np.arange(classes)
    spread = np.ones((classes, 2))
    side: list[Array] = []
    for members in (dissimilar, ~dissimilar):
        mean, deviation, size = _moments(a[members], labels[members], classes)
        noisy = (mixture.high(mean, every) > 0.5).astype(np.int64)
        deviation = np.where(deviation == 0, ZERO_STD, deviation)
        filled = size > 0
        # The second cluster overwrites the first where both lie on one side, as in the code.
        spread[every[filled], noisy[filled]] = deviation[filled]
        side.append(np.where(filled, noisy, 1))
    both_noisy = (side[0] == 1) & (side[1] == 1)
    return both_noisy | (spread[:, 1] / spread[:, 0] < STD_RATIO)


def _moments(values: Array, labels: Array, classes: int) -> tuple[Array, Array, Array]:
    """Return mean, population standard deviation and size of each class (K,)."""
    size = np.bincount(labels, minlength=classes)
    divisor = np.maximum(size, 1)
    mean = np.bincount(labels, values, classes) / divisor
    variance = np.bincount(labels, (values - mean[labels]) ** 2, classes) / divisor
    return mean, np.sqrt(variance), size


def _impostors(signals: Signals) -> Array:
    """Return the classes (K,) whose centroid belongs to another, better founded class."""
    affinity = signals.affinity.copy()
    own = np.diagonal(affinity).copy()
    np.fill_diagonal(affinity, -np.inf)
    nearest = affinity.argmax(1)
    close = np.abs(own - affinity[np.arange(len(own)), nearest]) < MARGIN * own
    return close & (signals.confident < signals.confident[nearest])


def _with_small_classes(weight: Array, metric: Array, signals: Signals) -> Selection:
    """Keep whole what cannot be judged."""
    metric[signals.counts < FEWEST] = "too_few"
    whole = np.isin(metric, ["too_few", "constant"])[signals.labels]
    weight = np.where(whole, 1.0, weight)
    return Selection(weight > 0.5, weight, metric)


def _per_class(name: str, values: Array, clean_is_high: bool, signals: Signals) -> Selection:
    """Split every class by one metric alone."""
    scaled, flat = _scaled(values, signals.labels, signals.classes)
    high = fit_mixtures(scaled, signals.labels, signals.classes).high(scaled, signals.labels)
    metric = np.full(signals.classes, name, dtype=object)
    metric[flat] = "constant"
    return _with_small_classes(high if clean_is_high else 1 - high, metric, signals)


def gmm_loss(signals: Signals) -> Selection:
    """Split all classes at once by cross-entropy (DivideMix: Li, Socher, Hoi 2020)."""
    loss = -np.log(np.maximum(signals.p_given, TINY))
    scaled = (loss - loss.min()) / max(float(np.ptp(loss)), TINY)
    one = np.zeros(len(loss), dtype=np.int64)
    weight = 1 - fit_mixtures(scaled, one, 1, iterations=10).high(scaled, one)
    return Selection(weight > 0.5, weight, np.full(signals.classes, "gmm-loss", dtype=object))


def keep_all(signals: Signals) -> Selection:
    """Trust every label: plain training."""
    weight = np.ones(len(signals.labels))
    return Selection(weight > 0.5, weight, np.full(signals.classes, "keep", dtype=object))


SELECTORS: Mapping[str, Callable[[Signals], Selection]] = {
    "tabasco": tabasco,
    "wjsd": lambda signals: _per_class("wjsd", signals.wjsd, False, signals),
    "acd": lambda signals: _per_class("acd", signals.acd, True, signals),
    "jsd": lambda signals: _per_class("jsd", signals.jsd, False, signals),
    "gmm-loss": gmm_loss,
    "keep": keep_all,
}


def confident_learning(labels: Array, probs: Array) -> Selection:
    """Select by cleanlab's `find_label_issues` (Northcutt, Jiang, Chuang 2021), at its defaults.

    Raises `MissingExtraError` when the package is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError as error:
        raise MissingExtraError("cleanlab", "bench") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of classes without samples
        wrong = find_label_issues(labels, np.asarray(probs, dtype=np.float64), n_jobs=1)
    weight = np.where(wrong, 0.0, 1.0)
    return Selection(~wrong, weight, np.full(probs.shape[1], "cleanlab", dtype=object))


def select(name: str, signals: Signals, probs: Array) -> Selection:
    """Return the verdict of the selector `name`."""
    if name == "cleanlab":
        return confident_learning(signals.labels, probs)
    return SELECTORS[name](signals)
