"""The file of a trained pair: weights, classes, image size, how many images each class had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from .config import NetworkOptions
from .data import normalise
from .model import Pair

METHOD = "labelnoise"


@dataclass(frozen=True)
class Trained:
    """Two networks with what they know: class names, image size, training counts (K,)."""

    model: Pair
    options: NetworkOptions
    classes: tuple[str, ...]
    counts: tuple[int, ...]


def save_model(path: str | Path, model: Pair, content: dict[str, Any]) -> None:
    """Write weights; `content` holds "network", "classes", "counts", "training", "metrics"."""
    checkpoint.save(path, model.state_dict(), Metadata(METHOD, "model", content))


def open_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Return what `save_model` wrote, in eval mode. Raises `CheckpointError` if it disagrees."""
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        options = NetworkOptions.create(**metadata.content["network"])
        classes = tuple(str(name) for name in metadata.content["classes"])
        counts = tuple(int(count) for count in metadata.content["counts"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    model = Pair(options.network, len(classes))
    checkpoint.load_into(model, tensors, path)
    return Trained(model.to(device).eval(), options, classes, counts)


class Classifier(nn.Module):
    """Levels 0..255 (N, 3, H, W) to the summed logits (N, K) of both networks."""

    def __init__(self, model: Pair) -> None:
        super().__init__()
        self.model = model

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K)."""
        return self.model(normalise(levels))


def load(path: str | Path, *, device: str = "cpu") -> Classifier:
    """Return the classifier of a file that `mlkit train labelnoise` wrote, in eval mode."""
    return Classifier(open_trained(path, device).model).eval()
