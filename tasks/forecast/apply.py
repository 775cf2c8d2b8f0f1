"""The main job: forecast the next steps of every sensor."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ...core.errors import CheckpointError, DataError, UsageError
from ...core.files import check_writable, write_text
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime
from .checkpoint import Trained, open_trained
from .config import ForecastConfig
from .coordinator import GRAPHED
from .data import Series
from .graph import Graph
from .network import open_graph, open_series, start_exact
from .pictures import draw_forecast
from .predictor import Predictor
from .small import small_model

SHOWN = 12  # sensors in the printed table


def forecast(
    config: ForecastConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Forecast the steps behind the end of the series; trains a small model when none is given.

    Raises `DataError` for series or graphs that cannot be used, `CheckpointError` when the model
    is of another step length or cannot serve these sensors.
    """
    progress = progress or Silent()
    for path in (config.out, config.plot):
        if path is not None and path.name != "-":
            check_writable(path, config.overwrite)
    runtime = start_exact(run_options)
    series = open_series(config.series, config, progress)
    chosen = _chosen(config, series)
    trained, graph = _model(config, series, runtime, progress)
    history = trained.windows.history
    if series.values.shape[1] < history:
        raise DataError(
            f"{series.name} has {series.values.shape[1]} steps, the model looks at {history}"
        )
    predictor = Predictor(trained, series, graph, runtime.device)
    newest = torch.tensor([series.values.shape[1] - history])
    values = predictor.forecast(newest, progress)[:, 0]
    bounds = predictor.bounds(values, int(config.interval))
    outputs: dict[str, Any] = {}
    if config.plot is not None:
        draw_forecast(config.plot, series, values, bounds, chosen or _restless(series))
        outputs["plot"] = str(config.plot)
    text = _text(config, series, values, bounds)
    notes = _notes(config, series, trained, predictor)
    if config.out is not None and config.out.name == "-":
        return Result(stream=text.encode(), notes=notes)
    if config.out is not None:
        write_text(config.out, text)
        outputs["forecast"] = str(config.out)
    return Result(
        inputs={"series": str(config.series), "weights": trained.name},
        outputs=outputs,
        metrics=_metrics(series, values, trained),
        tables=(_table(config, series, values, bounds, chosen or list(range(len(values)))),),
        notes=notes,
    )


def _chosen(config: ForecastConfig, series: Series) -> list[int]:
    unknown = [name for name in config.node if name not in series.names]
    if unknown:
        raise UsageError(
            f"--node {unknown[0]}: {series.name} has no such sensor",
            f"it has: {', '.join(series.names[:8])}",
        )
    return [series.names.index(name) for name in config.node]


def _restless(series: Series) -> list[int]:
    """Return the six sensors that vary most: there a forecast has something to say."""
    values = series.values
    spread = (values - values.nanmean(1, keepdim=True)).square().nanmean(1)
    return spread.argsort(descending=True)[:6].sort().values.tolist()


def _model(
    config: ForecastConfig, series: Series, runtime: Runtime, progress: Progress
) -> tuple[Trained, Graph]:
    if config.weights is None:
        graph = open_graph(config, series, progress)
        return small_model(config, series, graph, runtime, progress), graph
    trained = open_trained(config.weights)
    check_step(trained, series)
    return trained, graph_for(config, trained, series, progress)


def check_step(trained: Trained, series: Series) -> None:
    """Refuse series whose rows lie further apart or closer than those trained on."""
    step = trained.content.get("step")
    if step is not None and series.step is not None and step != series.step:
        raise CheckpointError(
            f"{trained.name} was trained on steps of {step / 60e6:g} minutes, "
            f"{series.name} has {series.step / 60e6:g}",
            "bring the series to that step, or train again",
        )


def graph_for(config: Any, trained: Trained, series: Series, progress: Progress) -> Graph:
    """Return the graph that was given, else the trained one where it knows all sensors."""
    needed = trained.model.method in GRAPHED
    if config.graph is not None or config.locations is not None or not needed:
        return open_graph(config, series, progress, needed)
    place = {name: i for i, name in enumerate(trained.names)}
    unknown = [name for name in series.names if name not in place]
    if unknown:
        raise CheckpointError(
            f"{trained.name} does not know {', '.join(unknown[:5])}",
            "give --graph (or --locations) with these sensors in it: they can be served",
        )
    return trained.graph.induced(torch.tensor([place[name] for name in series.names]))


Bounds = tuple[Tensor, Tensor] | None


def _text(config: ForecastConfig, series: Series, values: Tensor, bounds: Bounds) -> str:
    """Return the file: CSV (long or wide), or JSON lines."""
    labels = _labels(series, values)
    if config.wide:
        lines = [",".join(("time", *map(_quoted, series.names)))]
        lines += [
            ",".join((label, *(f"{v:.6g}" for v in values[:, step].tolist())))
            for step, label in enumerate(labels)
        ]
        return "\n".join(lines) + "\n"
    if config.out is not None and config.out.suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in _rows(series, values, bounds))
    return forecast_text(series, values, bounds)


def forecast_text(series: Series, values: Tensor, bounds: Bounds = None) -> str:
    """Return forecasts (N, H) as CSV, one row per sensor and step."""
    rows = _rows(series, values, bounds)
    lines = [",".join(rows[0]), *(",".join(map(_cell, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _quoted(str(value))


def _labels(series: Series, values: Tensor) -> list[str]:
    length = series.values.shape[1]
    return [series.label(length + step) for step in range(values.shape[1])]


def _rows(series: Series, values: Tensor, bounds: Bounds) -> list[dict[str, Any]]:
    labels = _labels(series, values)
    rows = []
    for node, name in enumerate(series.names):
        for step, label in enumerate(labels):
            row = {
                "time": label,
                "node": name,
                "step": step + 1,
                "value": float(values[node, step]),
            }
            if bounds is not None:
                row["lower"] = float(bounds[0][node, step])
                row["upper"] = float(bounds[1][node, step])
            rows.append(row)
    return rows


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n') else cell


def _steps(horizon: int) -> list[int]:
    return sorted({max(1, horizon // 4), max(1, horizon // 2), horizon})


def _table(
    config: ForecastConfig, series: Series, values: Tensor, bounds: Bounds, nodes: list[int]
) -> Table:
    steps = _steps(values.shape[1])
    titles = [f"+{step} steps" for step in steps]
    if series.step is not None:
        titles = [f"+{step * series.step / 60e6:g} min" for step in steps]
    rows = []
    for node in nodes[:SHOWN]:
        last = float(series.values[node, -1])
        cells = ["-" if last != last else f"{last:.4g}"]
        cells += [f"{float(values[node, step - 1]):.4g}" for step in steps]
        if bounds is not None:
            cells.append(" to ".join(f"{float(b[node, -1]):.4g}" for b in bounds))
        rows.append((series.names[node], *cells))
    if bounds is not None:
        titles.append(f"{config.interval} % at the end")
    length = series.values.shape[1]
    title = f"Forecast after {series.label(length - 1)}"
    return Table(title, ("sensor", "last", *titles), rows)


def _notes(
    config: ForecastConfig, series: Series, trained: Trained, predictor: Predictor
) -> tuple[str, ...]:
    notes = []
    if len(series.names) > SHOWN and not config.node:
        notes.append(f"{SHOWN} of {len(series.names)} sensors shown; -o FILE writes all")
    if trained.errors is not None:
        notes.append(f"intervals hold {config.interval} % of the validation errors")
    unseen = int((~predictor.seen).sum())
    if unseen:
        notes.append(f"{unseen} sensors were not trained on; the shared weights serve them")
    if series.step is None:
        notes.append(
            f"the file has no times: row 1 taken as midnight, {series.day_steps} steps per day "
            "(--day-steps)"
        )
    return tuple(notes)


def _metrics(series: Series, values: Tensor, trained: Trained) -> dict[str, Any]:
    entry = trained.content.get("metrics", {})
    return {
        "times": _labels(series, values),
        "forecast": {
            name: [round(v, 6) for v in row.tolist()]
            for name, row in zip(series.names, values, strict=True)
        },
        "validation_rmse": entry.get("rmse"),
    }
