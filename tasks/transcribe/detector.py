"""A learned error detector: several confidences of a token become one probability that it is right.

Not in the paper. A logistic regression on the logits of its ingredients, fitted on the proxy; its
output is calibrated there, and folds keep the threshold from being chosen on fitted values.
"""

from __future__ import annotations

import torch
from torch import Tensor

INGREDIENTS = ("max", "mean", "min", "posterior", "perturbed", "agreement", "duration")
FOLDS = 5
RIDGE = 1.0
EDGE = 1e-4


def features(confidences: dict[str, Tensor]) -> Tensor:
    """Return (..., D): logits of the confidences, and the logarithm of the duration in frames."""
    columns = [
        values.clamp_min(1).log() if name == "duration" else values.clamp(EDGE, 1 - EDGE).logit()
        for name, values in confidences.items()
    ]
    return torch.stack(columns, -1).double()


def fit_logistic(x: Tensor, y: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return (mean, 1 / deviation, weights, bias) as one vector (3 D + 1,) for inputs (N, D).

    Newton's method on the log likelihood of y (N,) bool with a ridge on the weights of the
    standardised inputs.
    """
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation, 0.0)
    design = torch.cat(((x - mean) * scale, torch.ones(len(x), 1, dtype=x.dtype)), 1)
    penalty = ridge * torch.ones(design.shape[1], dtype=x.dtype)
    penalty[-1] = 1e-6
    beta = torch.zeros(design.shape[1], dtype=x.dtype)
    for _ in range(30):
        p = (design @ beta).sigmoid()
        gradient = design.T @ (p - y.double()) + penalty * beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty.diag()
        step = torch.linalg.solve(hessian, gradient)
        beta = beta - step
        if step.abs().max() < 1e-9:
            break
    return torch.cat((mean, scale, beta))


def predict(parameters: Tensor, x: Tensor) -> Tensor:
    """Return the probability (...,) that tokens with features x (..., D) are right."""
    size = (len(parameters) - 1) // 3
    mean, scale, weights, bias = parameters.split((size, size, size, 1))
    return (((x - mean) * scale) @ weights + bias).sigmoid()


def out_of_fold(x: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """Return predictions (N,), each from a fit without the tokens of the same utterance."""
    found = torch.zeros(len(x), dtype=x.dtype)
    for fold in range(FOLDS):
        held = groups % FOLDS == fold
        if held.any():
            found[held] = predict(fit_logistic(x[~held], y[~held]), x[held])
    return found
