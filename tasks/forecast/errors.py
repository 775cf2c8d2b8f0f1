"""Scores from sums of errors, and the tables that show them beside the naive forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.results import Table
from .config import WindowOptions
from .data import Series
from .naive import daily_profile, last_value
from .sums import error_sums
from .windows import Part

STEPS = (3, 6, 12)  # 15, 30 and 60 minutes in the field's data


def scores(sums: Tensor) -> dict[str, float | None]:
    """Return RMSE, MAE, MAPE (%) of sums (..., H, 5) of `error_sums`, and RMSE by horizon.

    The RMSE is the root of the pooled mean square, not a mean of roots. A value that nothing was
    measured for is None.
    """
    by_step = sums.reshape(-1, *sums.shape[-2:]).sum(0)
    total = by_step.sum(0)
    found = {
        "rmse": _root(total[0], total[3]),
        "mae": _share(total[1], total[3]),
        "mape": _share(100 * total[2], total[4]),
    }
    steps = [step for step in STEPS if step <= len(by_step)] or [len(by_step)]
    for step in steps:
        found[f"rmse@{step}"] = _root(by_step[step - 1, 0], by_step[step - 1, 3])
        found[f"mae@{step}"] = _share(by_step[step - 1, 1], by_step[step - 1, 3])
    return found


def _share(total: Tensor, count: Tensor) -> float | None:
    return float(total / count) if count > 0 else None


def _root(total: Tensor, count: Tensor) -> float | None:
    mean = _share(total, count)
    return mean if mean is None else mean**0.5


def naive_sums(
    series: Series, starts: Mapping[Any, Tensor], part: Part, windows: WindowOptions
) -> dict[str, Tensor]:
    """Return the sums of errors of the last value and of the daily profile, (N, H, 5) each."""
    t, h = windows.history, windows.horizon
    known = int(starts["train"][-1]) + t + h
    steps = torch.arange(t, t + h)
    truth = series.values[:, starts[part][:, None] + steps]
    slots = series.slots
    guesses = {
        "last value": last_value(series.values, starts[part], t, h),
        "daily profile": daily_profile(series.values, slots, known, starts[part], t, h),
    }
    return {name: error_sums(guess, truth) for name, guess in guesses.items()}


def error_table(title: str, arms: Mapping[str, Tensor]) -> Table:
    """Return one row per forecast."""
    rows, columns = [], ["forecast"]
    for name, sums in arms.items():
        found = {k: v for k, v in scores(sums).items() if not k.startswith("mae@")}
        columns = ["forecast", *(_title(key) for key in found)]
        rows.append((name, *("-" if v is None else f"{v:.4g}" for v in found.values())))
    return Table(title, columns, rows)


def _title(key: str) -> str:
    name, at, step = key.partition("@")
    return f"{name.upper()}{' %' if name == 'mape' else ''}{at}{step}"
