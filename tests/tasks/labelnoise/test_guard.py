from __future__ import annotations

import numpy as np
import pytest

from mlkit.tasks.labelnoise.guard import cap, estimate_transition, judge, posterior, unguarded
from mlkit.tasks.labelnoise.noise import corrupt
from mlkit.tasks.labelnoise.selection import tabasco
from mlkit.tasks.labelnoise.signals import compute

from .helpers import Made, make


def noisy(matrix: np.ndarray, seed: int, per_class: int = 1500, gap: float = 4.0) -> Made:
    """Return what a perfectly calibrated network says of labels that turn by `matrix`."""
    classes = len(matrix)
    truth = np.repeat(np.arange(classes), per_class)
    labels = corrupt(truth, matrix, np.random.default_rng(seed))
    made = make(truth, labels, seed, classes, gap)
    return Made(made.probs @ matrix, made.features, labels, truth)


FLIP = np.array([[0.6, 0, 0.4, 0], [0, 1, 0, 0], [0, 0, 0.8, 0.2], [0, 0.1, 0, 0.9]])


def test_anchors_give_the_transition_that_made_the_noise() -> None:
    made = noisy(FLIP, 0)
    found = estimate_transition(compute(made.probs, made.features, made.labels))
    assert found.sum(1) == pytest.approx(np.ones(4))
    assert np.abs(found - FLIP).max() < 0.12
    assert (found[FLIP == 0] < 0.01).all()


def test_with_the_true_transition_the_posterior_is_bayes() -> None:
    random = np.random.default_rng(0)
    true = random.dirichlet(np.ones(4), 300)
    labels = random.integers(0, 4, 300)
    noise, likeliest = posterior(true @ FLIP, labels, FLIP)
    for i in range(300):
        joint = np.array([true[i, j] * FLIP[j, labels[i]] for j in range(4)])
        assert noise[i] == pytest.approx(1 - joint[labels[i]] / joint.sum(), abs=2e-4)
        assert likeliest[i] == joint.argmax()


def test_clean_labels_raise_few_alarms_however_weak_the_network() -> None:
    for gap in (2.0, 4.0):
        made = noisy(np.eye(4), 1, gap=gap)
        signals = compute(made.probs, made.features, made.labels)
        selection = tabasco(signals)
        verdict = judge(signals, selection, made.probs, 0.5)
        errors = (signals.predicted != signals.labels).mean()
        assert verdict.flagged.mean() <= errors
        assert verdict.flagged.mean() < 0.05
        assert verdict.flagged.sum() < unguarded(signals, selection).flagged.sum() / 4


def test_real_noise_is_still_found() -> None:
    made = noisy(FLIP, 2)
    signals = compute(made.probs, made.features, made.labels)
    verdict = judge(signals, tabasco(signals), made.probs, 0.5)
    wrong = made.labels != made.truth
    assert wrong[verdict.flagged].mean() > 0.9
    assert verdict.flagged[wrong].mean() > 0.5
    both = verdict.flagged & wrong
    assert (verdict.suggested[both] == made.truth[both]).mean() > 0.9


def test_at_most_so_many_flags_the_most_doubtful() -> None:
    flagged, doubt = np.array([True, True, False, True]), np.array([0.2, 0.9, 1.0, 0.5])
    assert list(cap(flagged, doubt, 2)) == [False, True, False, True]
    assert cap(flagged, doubt, 0) is flagged
