"""The file of a trained network of sensors: weights, graph, scaler, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from .config import FederationOptions, ModelOptions, WindowOptions
from .coordinator import GRAPHED, make_graph_network, settings_of
from .diffusion import DiffusionNetwork
from .graph import Graph, make_graph
from .model import GraphNetwork
from .node import Settings
from .windows import Scaler

METHOD = "forecast"
LEVELS = (0.05, 0.1, 0.25, 0.75, 0.9, 0.95)  # of the kept validation errors


@dataclass(frozen=True)
class Trained:
    """A trained network.

    `device` (1 or N, P) are the weights of the nodes, `personal` (N, P) their own copies after
    `--personalise`; `errors` (N + 1, H, 6) are quantiles of validation errors (truth minus
    forecast) per node, the last row over all nodes, for nodes that were not there.
    """

    name: str
    model: ModelOptions
    windows: WindowOptions
    federation: FederationOptions
    names: tuple[str, ...]
    graph: Graph
    scaler: Scaler
    device: Tensor
    server: dict[str, Tensor]
    content: dict[str, Any]
    personal: Tensor | None = None
    errors: Tensor | None = None

    @property
    def settings(self) -> Settings:
        """What its nodes must know."""
        return settings_of(self.model, self.windows, self.federation, self.content["seed"])

    def graph_network(self) -> GraphNetwork | DiffusionNetwork | None:
        """Return the server's network, in eval mode; None for methods without one."""
        if self.model.method not in GRAPHED:
            return None
        network = make_graph_network(self.model)
        checkpoint.load_into(network, self.server, self.name)
        return network.eval()

    def with_(self, **parts: Any) -> Trained:
        """Return a copy with other parts."""
        return replace(self, **parts)


def save_trained(path: str | Path, trained: Trained) -> None:
    """Write everything in one step."""
    tensors = {
        "device": trained.device,
        "graph.source": trained.graph.source,
        "graph.target": trained.graph.target,
        "graph.weight": trained.graph.weight,
        **{f"server.{name}": tensor for name, tensor in trained.server.items()},
    }
    for name in ("personal", "errors"):
        if getattr(trained, name) is not None:
            tensors[name] = getattr(trained, name)
    content = {
        **trained.content,
        "model": trained.model.model_dump(mode="json", include=set(ModelOptions.model_fields)),
        "windows": trained.windows.model_dump(mode="json", include=set(WindowOptions.model_fields)),
        "federation": trained.federation.to_dict(),
        "scaler": {"mean": trained.scaler.mean, "std": trained.scaler.std},
        "nodes": list(trained.names),
    }
    checkpoint.save(path, tensors, Metadata(METHOD, "model", content))


def open_trained(path: str | Path) -> Trained:
    """Return what `save_trained` wrote. Raises `CheckpointError` if its parts disagree."""
    tensors, metadata = checkpoint.load(path, METHOD)
    content = metadata.content
    try:
        names = tuple(content["nodes"])
        trained = Trained(
            name=str(path),
            model=ModelOptions.create(**content["model"]),
            windows=WindowOptions.create(**content["windows"]),
            federation=FederationOptions.create(**content["federation"]),
            names=names,
            graph=make_graph(
                tensors["graph.source"],
                tensors["graph.target"],
                tensors["graph.weight"],
                len(names),
            ),
            scaler=Scaler(**content["scaler"]),
            device=tensors["device"],
            server={k[7:]: t for k, t in tensors.items() if k.startswith("server.")},
            content=content,
            personal=tensors.get("personal"),
            errors=tensors.get("errors"),
        )
        size = trained.settings.net.size if trained.model.method != "dcrnn" else 0
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    if trained.device.shape not in ((1, size), (len(names), size)):
        raise CheckpointError(
            f"{path} is damaged: device weights {tuple(trained.device.shape)}, expected {size}"
        )
    return trained


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Trained:
    """Return the trained network of a file that `mlkit train forecast` wrote."""
    trained = open_trained(path)
    moved = {name: tensor.to(device) for name, tensor in trained.server.items()}
    personal = trained.personal.to(device) if trained.personal is not None else None
    return trained.with_(
        device=trained.device.to(device), server=moved, personal=personal,
        graph=trained.graph.to(device),
    )  # fmt: skip
