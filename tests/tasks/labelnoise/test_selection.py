from __future__ import annotations

import numpy as np
import pytest

from mlkit.tasks.labelnoise.mixture import fit_mixtures
from mlkit.tasks.labelnoise.selection import SELECTORS, tabasco
from mlkit.tasks.labelnoise.signals import compute

from .helpers import Made, impostor, long_tailed, make, sklearn_mixture, slow_tabasco


@pytest.mark.parametrize("seed", range(4))
def test_all_mixtures_at_once_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(20, 400, 12)
    groups = np.repeat(np.arange(12), sizes)
    upper = random.random(len(groups)) < 0.35
    values = np.where(upper, random.normal(0.8, 0.1, len(groups)), random.beta(2, 8, len(groups)))
    shuffled = random.permutation(len(groups))
    values, groups = values[shuffled], groups[shuffled]
    ours = fit_mixtures(values, groups, 13)
    for c in range(12):
        x = values[groups == c][:, None]
        theirs = sklearn_mixture(x[:, 0])
        high = int(theirs.means_.argmax())
        expected = theirs.predict_proba(x)[:, high]
        found = ours.high(x[:, 0], np.full(len(x), c))
        assert np.abs(found - expected).max() < 1e-6
    assert (ours.variances >= 5e-4).all()


def test_mixtures_of_equal_values_do_not_fail() -> None:
    found = fit_mixtures(np.full(5, 0.3), np.zeros(5, int), 1)
    assert np.isfinite(found.high(np.full(5, 0.3), np.zeros(5, int))).all()


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_selection_equals_the_loop_over_classes(seed: int) -> None:
    for made in (impostor(seed), long_tailed(seed)):
        signals = compute(made.probs, made.features, made.labels)
        found = tabasco(signals)
        assert np.abs(found.weight - slow_tabasco(made)).max() < 1e-6
        assert np.array_equal(found.clean, found.weight > 0.5)


def test_an_impostor_centroid_is_found_out() -> None:
    found = 0
    for seed in range(5):
        made = impostor(seed)
        selection = tabasco(compute(made.probs, made.features, made.labels))
        chosen = selection.clean & (made.labels == 4)
        found += int(chosen[made.truth == 4].sum())
        assert (chosen & (made.truth != 4)).sum() <= 6
        assert selection.metric[4] in ("wjsd", "impostor")
    assert found >= 49  # of the 50 that are right


def test_order_and_names_of_classes_do_not_matter() -> None:
    made = long_tailed(1)
    base = tabasco(compute(made.probs, made.features, made.labels))
    order = np.random.default_rng(0).permutation(len(made.labels))
    moved = tabasco(compute(made.probs[order], made.features[order], made.labels[order]))
    assert np.allclose(moved.weight, base.weight[order], atol=1e-9)
    names = np.array([3, 0, 5, 1, 4, 2])  # class c is now called names[c]
    renamed = tabasco(compute(made.probs[:, names.argsort()], made.features, names[made.labels]))
    assert np.allclose(renamed.weight, base.weight, atol=1e-9)
    assert (renamed.metric[names] == base.metric).all()


@pytest.mark.parametrize("name", ["jsd", "wjsd"])
def test_per_class_baselines_are_one_mixture_per_class(name: str) -> None:
    made = long_tailed(2)
    signals = compute(made.probs, made.features, made.labels)
    found = SELECTORS[name](signals)
    for c in range(signals.classes):
        rows = made.labels == c
        values = getattr(signals, name)[rows]
        scaled = ((values - values.min()) / np.ptp(values))[:, None]
        mixture = sklearn_mixture(scaled[:, 0])
        low = mixture.means_.argmin()
        assert np.allclose(found.weight[rows], mixture.predict_proba(scaled)[:, low], atol=1e-6)


def test_the_global_split_is_that_of_dividemix() -> None:
    made = long_tailed(3)
    signals = compute(made.probs, made.features, made.labels)
    loss = -np.log(signals.p_given)
    scaled = ((loss - loss.min()) / np.ptp(loss))[:, None]
    mixture = sklearn_mixture(scaled[:, 0], iterations=10)
    expected = mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    assert np.allclose(SELECTORS["gmm-loss"](signals).weight, expected, atol=1e-6)
    assert SELECTORS["keep"](signals).clean.all()


@pytest.mark.parametrize("selector", SELECTORS)
def test_classes_too_small_or_constant_are_kept_whole(selector: str) -> None:
    truth = np.repeat([0, 1, 3], [100, 7, 60])  # class 2 is empty
    made = make(truth, truth.copy(), 0, 4)
    probs, features = made.probs.copy(), made.features.copy()
    probs[truth == 3], features[truth == 3] = probs[-1], features[-1]
    found = SELECTORS[selector](compute(probs, features, truth))
    assert np.isfinite(found.weight).all()
    if selector not in ("gmm-loss", "keep"):
        assert list(found.metric[[1, 2, 3]]) == ["too_few", "too_few", "constant"]
        assert (found.weight[truth == 1] == 1).all()
        assert (found.weight[truth == 3] == 1).all()


def test_one_sample_in_a_class() -> None:
    base = long_tailed(0)
    labels = np.append(base.labels, 6)
    one = np.append(np.full(6, 1e-3), 0.994)
    probs = np.vstack([np.hstack([base.probs, np.zeros((len(base.labels), 1))]), one])
    made = Made(probs, np.vstack([base.features, np.ones(16)]), labels, labels)
    found = tabasco(compute(made.probs, made.features, made.labels))
    assert found.metric[6] == "too_few"
    assert found.clean[-1]
