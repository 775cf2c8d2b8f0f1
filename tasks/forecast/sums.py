"""Sums of errors, which add up over windows, nodes and processes, and their RMSE."""

from __future__ import annotations

import torch
from torch import Tensor


def error_sums(forecast: Tensor, truth: Tensor) -> Tensor:
    """Return sums over windows (n, H, 5), float64, of forecasts and truths (n, B, H).

    Squares, absolutes, absolute percentages, number of targets, number of non-zero targets; NaN
    in the truth counts nowhere.
    """
    known = ~truth.isnan()
    exact = truth.double().nan_to_num(0)
    error = (forecast.double() - exact) * known
    nonzero = known & (exact != 0)
    percent = error.abs() / exact.abs().where(nonzero, 1) * nonzero
    parts = (error.square(), error.abs(), percent, known.double(), nonzero.double())
    return torch.stack([part.sum(1) for part in parts], -1)


def rmse(sums: Tensor) -> float:
    """Return the root of the pooled mean squared error of sums (..., 5) of `error_sums`."""
    total = sums.flatten(0, -2).sum(0)
    return float((total[0] / total[3]).sqrt())
