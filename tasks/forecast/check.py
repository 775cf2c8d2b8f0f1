"""Looking through series and a graph before a long run."""

from __future__ import annotations

from typing import Any

import torch

from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig
from .data import constant_sensors
from .network import open_graph, open_series
from .windows import split_starts


def check_network(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count sensors, steps, gaps and edges. Raises `DataError` when training could not start."""
    progress = progress or Silent()
    series = open_series(config.series, config, progress)
    remarks: list[str] = []
    starts = split_starts(series.values.shape[1], config.history, config.horizon, 1, 1, series.name)
    missing = series.values.isnan()
    known = series.values[~missing]
    metrics: dict[str, Any] = {
        "sensors": len(series.names),
        "steps": series.values.shape[1],
        "first": series.label(0),
        "last": series.label(series.values.shape[1] - 1),
        "step_minutes": series.step / 60e6 if series.step else None,
        "missing": float(missing.float().mean()),
        "zeros": float((known == 0).float().mean()),
        "smallest": float(known.min()),
        "largest": float(known.max()),
        "constant": len(constant_sensors(series)),
        "windows": {part: len(found) for part, found in starts.items()},
    }
    if config.graph is not None or config.locations is not None:
        graph = open_graph(config, series, progress)
        loops = int((graph.source == graph.target).sum())
        heard = torch.bincount(graph.target, minlength=graph.nodes)
        metrics["edges"] = len(graph)
        metrics["self_loops"] = loops
        metrics["alone"] = int((heard <= 1).sum())
        dense = graph.dense()
        metrics["directed"] = not torch.allclose(dense, dense.T)
    else:
        remarks.append("no --graph and no --locations: not checked")
    if metrics["zeros"] > 0.01 and config.missing == "nan":
        remarks.append(
            f"{100 * metrics['zeros']:.1f} % of the values are 0; if that means "
            "'not measured', say --missing 0"
        )
    remarks.append(f"mlkit train forecast {config.series} would work")
    rows = [(key.replace("_", " "), _text(value)) for key, value in metrics.items()]
    return Result(
        inputs={"series": str(config.series)},
        metrics=metrics,
        tables=(Table(str(config.series), ("", "value"), rows),),
        notes=tuple(remarks),
    )


def _text(value: Any) -> str:
    if value is None:
        return "no times"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value) if isinstance(value, str) else (
        f"{value:.4g}"
    )  # fmt: skip
