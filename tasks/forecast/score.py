"""Scoring: errors per horizon, per sensor, seen and unseen, beside the naive forecasts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ...core.files import check_writable
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime
from .apply import check_step, graph_for
from .checkpoint import LEVELS, Trained, open_trained
from .config import EvalConfig, WindowOptions
from .data import Series
from .errors import error_table, naive_sums, scores
from .network import open_series, start_exact
from .pictures import draw_errors
from .predictor import Predictor
from .sums import error_sums
from .windows import split_starts


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score trained networks on windows of a file, last value and daily profile beside them.

    Raises `CheckpointError` when networks disagree on the windows or do not fit the series.
    """
    progress = progress or Silent()
    runtime = start_exact(run_options)
    if config.plot is not None:
        check_writable(config.plot)
    models = [open_trained(path) for path in config.weights]
    windows = models[0].windows
    for other in models[1:]:
        if (other.windows.history, other.windows.horizon) != (windows.history, windows.horizon):
            raise CheckpointError(
                f"{other.name} has windows of {other.windows.history} + {other.windows.horizon}, "
                f"{models[0].name} of {windows.history} + {windows.horizon}"
            )
    series = open_series(config.series, config, progress)
    starts = _starts(config, series, windows)
    arms: dict[str, Tensor] = {}
    metrics: dict[str, Any] = {}
    notes: list[str] = []
    for model in models:
        sums, found, said = _score(config, model, series, starts[config.part], runtime, progress)
        arms |= sums
        metrics[model.name] = found
        notes += said
    naive = naive_sums(series, starts, config.part, windows)  # type: ignore[arg-type]
    arms |= naive
    metrics |= {name: scores(sums) for name, sums in naive.items()}
    tables = [error_table(f"Errors, {config.part} part", arms)]
    if config.by_node:
        tables.append(_node_table(series, arms))
        metrics["nodes"] = _by_node(series, arms)
    outputs = {}
    if config.plot is not None:
        draw_errors(config.plot, arms)
        outputs["plot"] = str(config.plot)
    masked = {"nan": "gaps masked", "0": "gaps and zeros masked", "none": "nothing masked"}
    notes.append(
        f"{len(starts[config.part]):,} windows of {windows.history} + {windows.horizon} steps, "
        f"{len(series.names)} sensors, {masked[config.missing]}"
    )
    return Result(
        inputs={"series": str(config.series), "part": config.part},
        outputs=outputs,
        metrics={"windows": len(starts[config.part]), **metrics},
        tables=tuple(tables),
        notes=tuple(notes),
    )


def _starts(config: EvalConfig, series: Series, windows: WindowOptions) -> dict[Any, Tensor]:
    length = series.values.shape[1]
    starts: dict[Any, Tensor] = dict(
        split_starts(length, windows.history, windows.horizon, 1, config.every)
    )
    starts["all"] = torch.arange(0, length - windows.history - windows.horizon + 1, config.every)
    return starts


def _score(
    config: EvalConfig,
    model: Trained,
    series: Series,
    starts: Tensor,
    runtime: Runtime,
    progress: Progress,
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    check_step(model, series)
    predictor = Predictor(model, series, graph_for(config, model, series, progress), runtime.device)
    forecast, truth = predictor.forecast(starts, progress, "scoring"), predictor.truth(starts)
    sums = error_sums(forecast, truth)
    arms = {model.name: sums}
    found: dict[str, Any] = {"all": scores(sums), "method": model.model.method}
    seen = predictor.seen
    if not bool(seen.all()):
        for name, group in (("seen", seen), ("unseen", ~seen)):
            if bool(group.any()):
                arms[f"{model.name}, {name}"] = sums[group]
                found[name] = {**scores(sums[group]), "sensors": int(group.sum())}
    notes = []
    if model.errors is not None:
        found["coverage"] = _coverage(predictor, forecast, truth)
        said = ", ".join(f"{k} %: {100 * v:.1f}" for k, v in found["coverage"].items())
        notes.append(f"{model.name}: share inside the intervals {said}")
    return arms, found, notes


def _coverage(predictor: Predictor, forecast: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how much of the truth lies in the intervals, by their nominal percent."""
    found = {}
    for low in LEVELS[: len(LEVELS) // 2]:
        percent = round(100 * (1 - 2 * low))
        bounds = predictor.bounds(torch.zeros_like(forecast[:, 0]), percent)
        assert bounds is not None
        error = truth - forecast
        inside = (error >= bounds[0][:, None]) & (error <= bounds[1][:, None])
        known = ~truth.isnan()
        found[str(percent)] = float((inside & known).sum() / known.sum().clamp_min(1))
    return found


def _by_node(series: Series, arms: dict[str, Tensor]) -> dict[str, Any]:
    whole = {name: sums for name, sums in arms.items() if len(sums) == len(series.names)}
    return {
        sensor: {name: scores(sums[node])["rmse"] for name, sums in whole.items()}
        for node, sensor in enumerate(series.names)
    }


def _node_table(series: Series, arms: dict[str, Tensor]) -> Table:
    found = _by_node(series, arms)
    names = list(next(iter(found.values())))
    rows = [
        (sensor, *("-" if row[n] is None else f"{row[n]:.4g}" for n in names))
        for sensor, row in found.items()
    ]
    return Table("RMSE by sensor", ("sensor", *names), rows)
