from __future__ import annotations

import pytest
import torch

from mlkit.tasks.transcribe.threshold import find_threshold
from mlkit.tasks.transcribe.threshold_rules import Rule, parse_rule


def sample(count: int = 150, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences with ties, and wrong tokens that tend to be low."""
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(count, generator=generator) < 0.8
    noise = torch.rand(count, generator=generator)
    confidence = ((noise + 0.4 * correct) / 1.4 * 40).round() / 40
    return confidence, correct


def f_score(tau: float, confidence: torch.Tensor, correct: torch.Tensor, beta: float) -> float:
    doubted = confidence.double() < tau
    hits = float((doubted & ~correct).sum())
    precision, recall = hits / max(1, int(doubted.sum())), hits / int((~correct).sum())
    both = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / both if both else 0.0


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_fbeta_is_the_best_of_all_cuts(beta: float) -> None:
    """Property 11, against a scan."""
    confidence, correct = sample()
    found = find_threshold(Rule("fbeta", beta), confidence, correct)
    candidates = [float(c) for c in torch.linspace(-0.01, 1.01, 2000, dtype=torch.float64)]
    best = max(f_score(tau, confidence, correct, beta) for tau in candidates)
    assert f_score(found.tau, confidence, correct, beta) == pytest.approx(best)


def test_separable_scores_are_separated_and_scales_do_not_matter() -> None:
    confidence = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9])
    correct = torch.tensor([False, False, False, True, True])
    found = find_threshold(Rule("fbeta"), confidence, correct)
    assert (found.precision, found.recall, found.f1) == (1.0, 1.0, 1.0)
    assert found.tau == pytest.approx(0.55)
    confidence, correct = sample(seed=1)
    plain, scaled = (
        find_threshold(Rule("fbeta"), values, correct)
        for values in (confidence, confidence.double() ** 3)
    )
    assert torch.equal(confidence < plain.tau, confidence.double() ** 3 < scaled.tau)


def test_rate_doubts_as_many_as_the_proxy_has_errors() -> None:
    confidence, correct = sample(seed=2)
    others = torch.rand(1000, generator=torch.Generator().manual_seed(3))
    found = find_threshold(Rule("rate"), confidence, correct, others)
    wrong = float((~correct).double().mean())
    assert float((others < found.tau).double().mean()) == pytest.approx(wrong, abs=1e-3)


def test_precision_is_the_largest_threshold_that_keeps_it() -> None:
    confidence, correct = sample(seed=4)
    found = find_threshold(Rule("precision", 0.5), confidence, correct)
    assert found.precision >= 0.5
    for tau in confidence.double().unique():
        if tau > found.tau:
            doubted = confidence.double() <= tau
            assert float((doubted & ~correct).sum()) / int(doubted.sum()) < 0.5
    assert find_threshold(Rule("precision", 1.0), confidence, torch.rand(150) < 2).fallback


def test_too_few_errors_fall_back_to_a_quantile() -> None:
    confidence = torch.linspace(0, 1, 101)
    correct = torch.ones(101, dtype=torch.bool)
    correct[:2] = False
    found = find_threshold(Rule("fbeta"), confidence, correct)
    assert found.fallback
    assert float((confidence < found.tau).double().mean()) == pytest.approx(0.02, abs=0.005)
    assert find_threshold(Rule("fixed", 0.8), confidence, correct).tau == 0.8


def test_rules_as_they_are_written() -> None:
    assert parse_rule("auto", 1.0) == Rule("fbeta", 1.0)
    assert parse_rule("rate").name == "rate"
    assert parse_rule("precision=0.4") == Rule("precision", 0.4)
    assert parse_rule("0.8") == Rule("fixed", 0.8)
    for wrong in ("often", "1.5", "precision=x"):
        with pytest.raises(ValueError, match=r"between|convert"):
            parse_rule(wrong)
