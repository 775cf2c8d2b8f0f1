"""The confidence below which a token is doubted, found on labelled audio (the proxy)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .threshold_rules import Rule

FEWEST_ERRORS = 3
FALLBACK_QUANTILE = 0.02


@dataclass(frozen=True)
class Found:
    """A threshold, and what it does on the proxy; `fallback` says there were too few errors."""

    tau: float
    precision: float
    recall: float
    fallback: bool = False

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of the doubted tokens."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def find_threshold(
    rule: Rule, confidence: Tensor, correct: Tensor, unlabelled: Tensor | None = None
) -> Found:
    """Return the threshold for tokens of the proxy: `confidence` (N,) and `correct` (N,) bool.

    `unlabelled` are confidences of unlabelled audio, for the rule "rate": doubt as many of them
    as the proxy has errors. A token is doubted when its confidence is below the threshold.
    """
    confidence = confidence.double()
    errors = int((~correct).sum())
    if rule.name == "fixed":
        return _judge(rule.value, confidence, correct)
    others = confidence if unlabelled is None or not len(unlabelled) else unlabelled.double()
    if errors < FEWEST_ERRORS:
        tau = _quantile(others, FALLBACK_QUANTILE) if len(others) else 0.0
        return _judge(tau, confidence, correct, fallback=True)
    if rule.name == "rate":
        return _judge(_quantile(others, errors / len(correct)), confidence, correct)
    cuts, hits, flagged = _all_cuts(confidence, correct)
    if rule.name == "fbeta":
        weight = rule.value**2
        score = (1 + weight) * hits / (weight * errors + flagged)
        best = int(score.argmax())
    else:
        good = (hits / flagged.clamp_min(1) >= rule.value) & (flagged > 0)
        if not good.any():
            return _judge(0.0, confidence, correct)
        best = int(good.nonzero()[-1])
    return _judge(float(cuts[best]), confidence, correct)


def _all_cuts(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all thresholds between different confidences, with errors found and tokens doubted."""
    values, order = confidence.sort()
    wrong = (~correct)[order].double()
    ends = torch.cat((values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)))
    above = torch.cat((values[1:], values[-1:] + 1))
    cuts = ((values + above) / 2)[ends]
    flagged = torch.arange(1, len(values) + 1, dtype=torch.float64)[ends]
    return cuts, wrong.cumsum(0)[ends], flagged


def _quantile(values: Tensor, share: float) -> float:
    """Return a threshold below which this share of the values lies."""
    ordered = values.sort().values
    count = min(round(share * len(ordered)), len(ordered) - 1)
    return float(ordered[count])


def _judge(tau: float, confidence: Tensor, correct: Tensor, fallback: bool = False) -> Found:
    doubted = confidence < tau
    hits = int((doubted & ~correct).sum())
    precision = hits / max(1, int(doubted.sum()))
    return Found(tau, precision, hits / max(1, int((~correct).sum())), fallback)
