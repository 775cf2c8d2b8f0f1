"""A small random network of sensors, and engines on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlkit.tasks.forecast.config import (
    FederationOptions,
    ModelOptions,
    RoundOptions,
    WindowOptions,
)
from mlkit.tasks.forecast.coordinator import Coordinator
from mlkit.tasks.forecast.graph import Graph, from_dense
from mlkit.tasks.forecast.joint import ENGINES
from mlkit.tasks.forecast.node import NodeGroup
from mlkit.tasks.forecast.transport import LocalTransport, Transport

NODES, STEPS, DAY = 6, 90, 24
NAMES = [f"n{i}" for i in range(NODES)]
WINDOWS = WindowOptions(history=6, horizon=4, eval_stride=3)
SMALL = {"hidden": 5, "server_hidden": 7, "server_size": 6}


def series(nodes: int = NODES, steps: int = STEPS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 50 + torch.randn(nodes, steps, generator=generator).cumsum(1)


def times(steps: int = STEPS) -> Tensor:
    return torch.arange(steps + 50) % DAY / DAY


def graph(nodes: int = NODES, seed: int = 1) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(nodes, nodes, generator=generator)
    return from_dense(dense * (dense > 0.5) + torch.eye(nodes) * (1 - dense))


def group(values: Tensor | None = None, names: list[str] | None = None) -> NodeGroup:
    values = series() if values is None else values
    return NodeGroup(names or NAMES[: len(values)], values, times(values.shape[1]))


def engine(
    method: Any = "cnfgnn",
    values: Tensor | None = None,
    *,
    transport: Transport | None = None,
    network: Graph | None = None,
    windows: WindowOptions = WINDOWS,
    federation: FederationOptions | None = None,
    seed: int = 3,
    begun: bool = True,
    model: dict[str, Any] | None = None,
    **rounds: Any,
) -> Any:
    """Return an engine that is ready for its first round."""
    options = RoundOptions(**{"rounds": 3, "lr": 0.01, "batch_size": 16, "patience": 0, **rounds})
    transport = transport or LocalTransport(group(values))
    made = ENGINES.get(method, Coordinator)(
        transport,  # type: ignore[arg-type]
        network or graph(len(transport.names)),
        ModelOptions(method=method, **{**SMALL, **(model or {})}),
        windows,
        options,
        federation or FederationOptions(),
        seed,
    )
    if begun:
        made.begin()
    return made
