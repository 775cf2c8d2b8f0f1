"""What a command works on: the series, the graph and the places of its sensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.runtime import Runtime, start
from .adjacency import graph_of_places, read_graph, read_places
from .config import GraphOptions, SeriesOptions
from .data import Series, constant_sensors, read_series
from .graph import Graph, from_dense


def start_exact(options: RunOptions | None) -> Runtime:
    """Start the machine; refuses what recurrent networks on a few windows do not gain from."""
    options = options or RunOptions()
    if options.precision != "fp32":
        raise UsageError(
            f"--precision {options.precision}: forecast computes in fp32", "leave it away"
        )
    return start(options)


def open_series(path: Path, options: SeriesOptions, progress: Progress) -> Series:
    """Read series and warn of what is odd in them."""
    with progress.task("reading", None):
        series = read_series(path, options)
    constant = constant_sensors(series)
    if constant:
        some = ", ".join(constant[:5])
        progress.warn(f"{series.name}: {len(constant)} sensors never change: {some}")
    return series


def open_graph(
    options: GraphOptions, series: Series, progress: Progress, needed: bool = True
) -> Graph:
    """Read the graph of the sensors, or make it from their places.

    Without either every sensor stands alone; a warning says so where the method needs a graph.
    """
    if options.graph is not None:
        return read_graph(options.graph, series.names, options.graph_kind, progress.info)
    if options.locations is not None:
        return graph_of_places(*read_places(options.locations, series.names))
    if needed:
        progress.warn("no --graph and no --locations: every sensor stands alone")
    return from_dense(torch.eye(len(series.names)))


def western(longitude: Tensor, share: float) -> Tensor:
    """Return the round(share N) sensors of smallest longitude, in their old order, int64."""
    count = max(1, round(share * len(longitude)))
    return longitude.argsort(stable=True)[:count].sort().values
