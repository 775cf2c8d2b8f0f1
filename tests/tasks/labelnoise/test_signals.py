from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.tasks.labelnoise import signals as module
from mlkit.tasks.labelnoise.signals import compute, divergence

from .helpers import long_tailed, make


@given(st.floats(1e-9, 1 - 1e-9))
def test_closed_form_is_the_two_divergences(p: float) -> None:
    prediction, label = np.array([p, 1 - p]), np.array([1.0, 0.0])
    middle = (prediction + label) / 2
    general = 0.5 * (prediction * np.log(prediction / middle)).sum() + 0.5 * np.log(1 / middle[0])
    assert divergence(np.array(p)) == pytest.approx(general, abs=1e-6)


def test_divergence_at_its_ends_and_between() -> None:
    assert divergence(np.array([1.0, 0.0])) == pytest.approx([0, np.log(2)])
    assert (np.diff(divergence(np.linspace(0, 1, 1001))) < 0).all()


def test_without_a_drowned_class_the_weights_are_one() -> None:
    made = long_tailed(0, noise=0.1)
    found = compute(made.probs, made.features, made.labels)
    assert (found.target == np.arange(6)).all()
    assert np.array_equal(found.wjsd, found.jsd)
    loss = -np.log(found.p_given)
    for c in range(6):
        rows = made.labels == c
        assert (loss[rows].argsort() == found.wjsd[rows].argsort()).all()


def test_a_drowned_class_is_weighted_and_its_centroid_follows_the_crowd() -> None:
    truth = np.repeat([0, 1, 0, 2], [200, 200, 80, 20])
    labels = np.repeat([0, 1, 2], [200, 200, 100])
    made = make(truth, labels, 0, 3)
    found = compute(made.probs, made.features, labels)
    assert list(found.target) == [0, 1, 0]
    drowned = labels == 2
    assert (found.wjsd[drowned] > found.jsd[drowned] * 1.01).any()
    assert found.acd[(truth == 0) & drowned].mean() > found.acd[(truth == 2) & drowned].mean()


def test_acd_ignores_scale_and_offset_of_features() -> None:
    made = long_tailed(1)
    base = compute(made.probs, made.features, made.labels)
    shift = np.random.default_rng(0).normal(size=16) * 7
    moved = compute(made.probs, made.features * 3.5 + shift, made.labels)
    assert np.allclose(moved.acd, base.acd, atol=1e-9)
    assert np.allclose(moved.affinity, base.affinity, atol=1e-9)
    assert np.abs(base.acd).max() <= 1 + 1e-9
    assert base.affinity.sum(1) == pytest.approx(np.ones(6))


def test_a_centroid_of_one_sample_is_that_sample() -> None:
    made = long_tailed(2, classes=3)
    labels = np.append(made.labels, 3)
    probs = np.vstack([np.hstack([made.probs, np.zeros((len(made.labels), 1))]), [0, 0, 0, 1]])
    features = np.vstack([made.features, made.features[0] - 9])
    found = compute(probs, features, labels)
    assert found.acd[-1] == pytest.approx(1)
    assert found.confident[3] == 1


def test_blocks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = long_tailed(3)
    base = compute(made.probs, made.features, made.labels)
    monkeypatch.setattr(module, "BLOCK_BYTES", 16 * 8 * 7)
    cut = compute(made.probs.astype(np.float32), made.features, made.labels)
    assert np.allclose(cut.wjsd, base.wjsd, atol=1e-5)
    assert np.allclose(cut.acd, base.acd, atol=1e-6)


def test_features_of_several_networks_are_compared_within_each() -> None:
    """Rotating the features of one network changes nothing when the networks are told apart."""
    made = long_tailed(4)
    spaces = np.arange(len(made.labels)) % 2
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))
    turned = np.where(spaces[:, None] == 1, made.features @ turn, made.features)
    apart = compute(made.probs, made.features, made.labels, spaces)
    again = compute(made.probs, turned, made.labels, spaces)
    assert np.allclose(apart.acd, again.acd, atol=1e-9)
    assert np.allclose(apart.affinity, again.affinity, atol=1e-9)


def test_an_empty_confident_set_falls_back_to_the_class() -> None:
    probs = np.tile([0.5, 0.5], (20, 1))
    found = compute(probs, np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2)
    assert found.fallback == 2
    assert list(found.confident) == [10, 10]
