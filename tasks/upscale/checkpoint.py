"""Weights as they are stored: the network, what it was trained for, the estimator of blurs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import checkpoint
from ...core.errors import CheckpointError
from .degradation import Sampling
from .model import Network
from .published import read_published

WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED = ("mzsr", "joint", "pretrained")
_ESTIMATOR = "estimator."


@dataclass(frozen=True)
class Start:
    """Where adaptation starts.

    `scales` and `samplings` are those of the training; `aligned` and `rounds` say how inputs are
    made (`network_input`). `estimators` maps "sampling.scale" to the coefficients of `blur.py`.
    """

    network: Network
    scales: tuple[int, ...] = (2,)
    samplings: tuple[Sampling, ...] = ("direct", "bicubic")
    aligned: bool = True
    rounds: int = 0
    objective: str = "meta"
    estimators: Mapping[str, Tensor] = field(default_factory=dict)


def save_start(path: Path, start: Start, content: Mapping[str, Any]) -> None:
    """Write weights; `content` is what else there is to say (metrics, config)."""
    about = {
        "model": start.network.settings,
        "trained": {
            "scales": sorted(set(start.scales)),
            "samplings": list(start.samplings),
            "aligned": start.aligned,
            "rounds": start.rounds,
            "objective": start.objective,
        },
        **content,
    }
    tensors = dict(start.network.state_dict())
    tensors |= {f"{_ESTIMATOR}{name}": tensor for name, tensor in start.estimators.items()}
    checkpoint.save(path, tensors, checkpoint.Metadata("upscale", "model", about))


def load_start(path: Path) -> Start:
    """Return the weights in a file of ours, or of the published code.

    Raises `CheckpointError` when it is damaged, or holds something else.
    """
    if path.suffix != ".safetensors" or not checkpoint.is_checkpoint(path):
        return _from_published(path)
    tensors, metadata = checkpoint.load(path, "upscale")
    estimators = {
        name.removeprefix(_ESTIMATOR): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_ESTIMATOR)
    }
    try:
        network, trained = Network(**metadata.content["model"]), metadata.content["trained"]
        checkpoint.load_into(network, tensors, path)
        return Start(
            network,
            tuple(trained["scales"]),
            tuple(trained["samplings"]),
            trained["aligned"],
            trained["rounds"],
            trained["objective"],
            estimators,
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its description of the network is damaged") from error


@lru_cache
def embedded(name: str) -> Start:
    """Return the embedded weights "mzsr", "joint" or "pretrained"; do not change them."""
    return load_start(WEIGHTS / f"{name}.safetensors")


def _from_published(path: Path) -> Start:
    """Return weights in the published layout; what they were trained for is not in the file."""
    state = read_published(path)
    depth = len(state) // 2
    width = state["conv1.weight"].shape[0]
    network = Network(width, depth, steps=1)
    if len(state) % 2 or depth < 2:
        raise CheckpointError(f"{path}: {len(state)} tensors are not those of a network")
    checkpoint.load_into(network, {**state, "log_rates": network.log_rates.detach()}, path)
    return Start(network, scales=(2, 3, 4), aligned=False)


def random_start(like: Start, seed: int, gain: float) -> Start:
    """Return a network of the same size with weights drawn at random."""
    settings = like.network.settings
    network = Network(settings["width"], settings["depth"], settings["steps"])
    network.draw(seed, gain)
    device = next(like.network.parameters()).device
    return Start(network.to(device), (2, 3, 4), aligned=like.aligned, objective="random")


def to_device(start: Start, device: torch.device) -> Start:
    """Move the network of freshly loaded weights, in place; returns them."""
    start.network.to(device)
    return start
