from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import mannwhitneyu

from mlkit.tasks.transcribe.confidence import auroc, posterior_confidence
from mlkit.tasks.transcribe.detector import fit_logistic, out_of_fold, predict
from mlkit.tasks.transcribe.greedy import greedy, utterance_confidence
from mlkit.tasks.transcribe.losses import (
    ctc_loss,
    generalized_ctc_loss,
    live_positions,
    single_flags,
)

from .test_losses import collapse, labels, logits

RAGGED = labels([[1, 2, 2, 3], [], [4], [1, 1, 1], [3, 3]], [9, 5, 1, 6, 2])


def test_posterior_is_the_share_of_all_single_substitutions() -> None:
    """Property 9, against its definition; an impossible utterance has confidence 0."""
    lp = logits(9, 5, 5).log_softmax(2)
    found = posterior_confidence(lp, RAGGED)
    rows, places = live_positions(RAGGED)
    single = generalized_ctc_loss(lp[:, rows], single_flags(RAGGED, rows, places))
    expected = (single - ctc_loss(lp, RAGGED)[rows]).exp()
    possible = rows != 4
    torch.testing.assert_close(
        found[rows, places][possible], expected[possible], rtol=0, atol=1e-12
    )
    assert (found[rows, places][possible] > 0).all()
    assert (found <= 1).all()
    assert not found[4, :2].any()


def test_with_one_token_there_is_no_doubt() -> None:
    lp = logits(7, 1, 2, seed=1).log_softmax(2)
    found = posterior_confidence(lp, labels([[1, 1]], [7]))
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-12)


def test_greedy_merges_repeats_and_measures_runs() -> None:
    lp = logits(12, 6, 4, seed=2, scale=3).log_softmax(2)
    frames = torch.tensor([12, 7, 1, 12, 3, 12])
    decoded = greedy(lp, frames)
    for row, tokens in enumerate(decoded.lists()):
        path = lp[: int(frames[row]), row].argmax(1).tolist()
        assert tuple(tokens) == collapse(tuple(path))
        for u, token in enumerate(tokens):
            start, end = int(decoded.starts[row, u]), int(decoded.ends[row, u])
            assert set(path[start:end]) == {token}
            p = lp[start:end, row, token].exp()
            assert float(decoded.runs["max"][row, u]) == pytest.approx(float(p.max()))
            assert float(decoded.runs["min"][row, u]) == pytest.approx(float(p.min()))
            assert float(decoded.runs["mean"][row, u]) == pytest.approx(float(p.mean()))
            geometric = math.exp(float(p.log().mean()))
            assert float(decoded.runs["geo"][row, u]) == pytest.approx(geometric)
    speaking = lp[:7, 1].max(1)
    logs = speaking.values[speaking.indices != 0]
    assert float(utterance_confidence(lp, frames)[1]) == pytest.approx(math.exp(float(logs.mean())))


def test_nothing_spoken_is_an_empty_result() -> None:
    lp = torch.zeros(4, 2, 3)
    lp[..., 0] = 5.0
    decoded = greedy(lp.log_softmax(2), torch.tensor([4, 2]))
    assert decoded.lists() == [[], []]
    assert decoded.runs["max"].shape == (2, 0)
    assert not utterance_confidence(lp, torch.tensor([4, 2])).any()


def test_auroc_is_that_of_mann_and_whitney() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (200,), generator=generator).double()
    correct = torch.rand(200, generator=generator) < 0.7
    u = mannwhitneyu(scores[correct].numpy(), scores[~correct].numpy()).statistic
    expected = u / (int(correct.sum()) * int((~correct).sum()))
    assert auroc(scores, correct) == pytest.approx(expected)
    assert math.isnan(auroc(scores, torch.ones(200, dtype=torch.bool)))


def test_the_detector_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    x = logits(120, 3, seed=3)
    y = (x[:, 0] + 0.5 * logits(120, seed=4)) > 0
    ours = predict(fit_logistic(x, y), x)
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled, y)
    expected = torch.from_numpy(theirs.predict_proba(scaled.numpy())[:, 1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    folds = out_of_fold(x, y, torch.arange(120))
    held = torch.arange(120) % 5 == 2
    torch.testing.assert_close(folds[held], predict(fit_logistic(x[~held], y[~held]), x[held]))
