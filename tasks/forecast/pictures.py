"""Pictures: the last day with its forecast, and the error over the horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...core.report import new_figure, write_figure
from .data import DAY, Series

BLUE, ORANGE, GREY = "#1f5fa8", "#d9631e", "#8a97a5"


def draw_forecast(
    path: Path,
    series: Series,
    values: Tensor,
    bounds: tuple[Tensor, Tensor] | None,
    nodes: Sequence[int],
) -> None:
    """Draw what was measured in the last day, the forecast and its interval, per sensor."""
    length, horizon = series.values.shape[1], values.shape[1]
    day = round(DAY / series.step) if series.step else series.day_steps
    shown = min(length, max(day, 4 * horizon))
    unit = series.step / 3.6e9 if series.step else 24 / series.day_steps
    past = (torch.arange(-shown, 0) + 1) * unit
    ahead = torch.arange(0, horizon + 1) * unit
    rows = -(-len(nodes) // 2) if len(nodes) > 1 else 1
    figure = new_figure(11 if len(nodes) > 1 else 7, 2.5 * rows)
    grid = figure.subplots(rows, 2 if len(nodes) > 1 else 1, squeeze=False, sharex=True)
    for axes in grid.flat[len(nodes) :]:
        axes.set_visible(False)
    for axes, node in zip(grid.flat, nodes, strict=False):
        measured = series.values[node, length - shown :]
        axes.plot(past, measured, color=BLUE, linewidth=1)
        known = measured[~measured.isnan()]
        last = known[-1:] if len(known) else values[node, :1]
        if bounds is not None:
            low, high = (torch.cat((last, b[node])) for b in bounds)
            axes.fill_between(ahead, low, high, color=ORANGE, alpha=0.25, linewidth=0)
        axes.plot(ahead, torch.cat((last, values[node])), color=ORANGE, linewidth=1.6)
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(series.names[node], fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel(f"hours from {series.label(length - 1)}", fontsize=8)
    figure.suptitle(f"{series.name}: measured (blue), forecast (orange)", fontsize=10)
    write_figure(path, figure)


def draw_errors(path: Path, curves: Mapping[str, Tensor]) -> None:
    """Draw the RMSE of each forecast over the horizon, from sums (N, H, 5)."""
    figure = new_figure(6.5, 3.6)
    axes = figure.subplots()
    for name, sums in curves.items():
        total = sums.sum(0)
        naive = name in ("last value", "daily profile")
        axes.plot(
            torch.arange(1, len(total) + 1), (total[:, 0] / total[:, 3]).sqrt(), marker=".",
            label=name, linestyle="--" if naive else "-", color=GREY if naive else None,
        )  # fmt: skip
    axes.set(xlabel="steps ahead", ylabel="RMSE")
    axes.legend(fontsize=8)
    write_figure(path, figure)
