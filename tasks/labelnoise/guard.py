"""The guard against false alarms: how probable is it, given the network, that a label is wrong?

A split into two clusters always finds two, also where every label is right. The guard asks for
evidence against the one-cluster model. From the samples that a network is surest of it learns
how labels turn into one another (T, near the identity on clean data, however weak the network
is), and by Bayes' rule which doubts such turns explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .selection import Selection
from .signals import TINY, Signals, blocks

Array = NDArray[Any]

SHARE, FEWEST_ANCHORS = 0.1, 10  # of the samples predicted as a class, the surest are its anchors
DEVIATIONS = 1.645  # a one-sided test at 5 %
WEAK_AGREEMENT, MUCH_FLAGGED = 0.5, 0.4


@dataclass(frozen=True)
class Verdict:
    """`flagged` (N,) bool, `noise` (N,) in [0, 1] that the label is wrong, `suggested` (N,).

    `doubt` (N,) in [0, 1] is what ranks: `transition` (K, K), how labels were found to turn into
    one another, tells systematic mistakes, self-confidence tells random ones; it is their mean.
    """

    flagged: Array
    noise: Array
    doubt: Array
    suggested: Array
    transition: Array


def judge(
    signals: Signals, selection: Selection, probs: Array, least: float, most: int = 0
) -> Verdict:
    """Flag what the selection calls wrong and whose probability to be wrong exceeds `least`.

    `most` flags at most that many, the most doubtful first.
    """
    transition = estimate_transition(signals)
    noise, suggested = posterior(probs, signals.labels, transition)
    doubt = (noise + 1 - signals.p_given) / 2
    flagged = cap(~selection.clean & (noise > least), doubt, most)
    return Verdict(flagged, noise, doubt, suggested, transition)


def unguarded(signals: Signals, selection: Selection, most: int = 0) -> Verdict:
    """Flag all that the selection calls wrong: the paper's behaviour."""
    noise = 1 - selection.weight
    flagged = cap(~selection.clean, noise, most)
    return Verdict(flagged, noise, noise, signals.predicted, np.eye(signals.classes))


def cap(flagged: Array, doubt: Array, most: int) -> Array:
    """Keep the `most` largest of the flagged (all when 0)."""
    if not most or flagged.sum() <= most:
        return flagged
    order = np.argsort(-np.where(flagged, doubt, -1.0), kind="stable")[:most]
    kept = np.zeros_like(flagged)
    kept[order] = True
    return kept


def estimate_transition(signals: Signals) -> Array:
    """Return T (K, K), T[j, c] the share of class j's samples that are labelled c.

    Anchors (Patrini et al. 2017): of the samples predicted as j the surest tenth, whose true
    class is taken to be j. An entry counts as far as it is significant (the lower end of a
    one-sided 95 % interval); what is not stays on the diagonal, as does a class with fewer than
    10 anchors.
    """
    classes = signals.classes
    order = np.lexsort((-signals.p_max, signals.predicted))
    size = np.bincount(signals.predicted, minlength=classes)
    wanted = np.minimum(size, np.maximum((SHARE * size).astype(np.int64), FEWEST_ANCHORS))
    place = np.arange(len(order)) - (np.cumsum(size) - size)[signals.predicted[order]]
    anchors = order[place < wanted[signals.predicted[order]]]
    cells = signals.predicted[anchors] * classes + signals.labels[anchors]
    hits = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    share = _lower_bound(hits, np.maximum(wanted, 1)[:, None])
    share[wanted < FEWEST_ANCHORS] = 0
    np.fill_diagonal(share, 0)
    return share + np.diag(1 - share.sum(1))


def _lower_bound(hits: Array, total: Array) -> Array:
    """Return the lower end of Wilson's interval of hits / total."""
    z, p = DEVIATIONS, hits / total
    centre = p + z * z / (2 * total)
    half = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return np.maximum(0, (centre - half) / (1 + z * z / total))


def posterior(probs: Array, labels: Array, transition: Array) -> tuple[Array, Array]:
    """Return P(true class is not the label | image, label) (N,), and the likeliest class (N,).

    The network predicts labels: p = T' q. q, the true class, is p T^-1 with negative entries
    set to zero; by Bayes' rule class j speaks for the label c with q_j T_jc.
    """
    inverse = np.linalg.pinv(transition).astype(np.float32)
    into = np.ascontiguousarray(transition.T, dtype=np.float32)  # row c: how classes become c
    found, likeliest = np.empty(len(labels)), np.empty(len(labels), dtype=np.int64)
    for part in blocks(probs):
        joint = np.maximum(np.asarray(probs[part], np.float32) @ inverse, 0)
        joint *= into[labels[part]]
        own = joint[np.arange(len(joint)), labels[part]]
        found[part] = 1 - own / np.maximum(joint.sum(1), TINY)
        likeliest[part] = joint.argmax(1)
    return np.clip(found, 0, 1), likeliest
