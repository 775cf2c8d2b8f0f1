"""The file of a trained recommender: tables, vocabulary, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from .aggregate import Labels
from .config import ModelOptions, SplitOptions
from .data import Items
from .model import AnyModel, Popular, Recommender

METHOD = "recommend"
LEAST_OVERLAP = 0.5  # share of a log's interactions that a model must know the items of


@dataclass(frozen=True)
class Trained:
    """A model with what it knows of its items: names, titles, labels, training counts."""

    name: str
    model: AnyModel
    options: ModelOptions
    items: Items
    counts: Tensor
    content: dict[str, Any]

    @property
    def split(self) -> SplitOptions:
        """How its log was split."""
        return SplitOptions(**self.content["split"])


def labels_of(items: Items, mode: str) -> Labels | None:
    """Return the categories of items, read as `mode` says; None when there are none."""
    if items.labels is None:
        return None
    return Labels(items.label_sets() if mode == "all" else items.categories(mode))


def save_model(
    path: str | Path, model: AnyModel, items: Items, counts: Tensor, content: dict[str, Any]
) -> None:
    """Write model, item names (titles and labels where known), counts, in one step.

    `content` holds "model" and "split" (their options), "log" (its hash), "metrics".
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {"counts": counts, "names": _to_bytes(items.names)}
    for name, values in (("titles", items.titles), ("labels", items.labels)):
        if values is not None:
            tensors[name] = _to_bytes(values)
    checkpoint.save(path, tensors, Metadata(METHOD, "model", content))


def _to_bytes(values: pl.Series) -> Tensor:
    """Return texts as bytes, uint8, with a zero between them: metadata would be too small."""
    text = "\0".join(value.replace("\0", " ") for value in values.to_list())
    return torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)


def _to_series(data: Tensor, count: int, path: str | Path) -> pl.Series:
    values = data.numpy().tobytes().decode(errors="replace").split("\0")
    if len(values) != count:
        raise CheckpointError(f"{path} is damaged: {len(values)} texts for {count} items")
    return pl.Series(values, dtype=pl.String)


def open_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Return what `save_model` wrote, in eval mode. Raises `CheckpointError` if it disagrees."""
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        options = ModelOptions.create(**metadata.content["model"])
        counts, names = tensors["counts"], tensors["names"]
        SplitOptions.create(**metadata.content["split"])
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    state = {name[6:]: t for name, t in tensors.items() if name.startswith("model.")}
    model = build(options, counts)
    checkpoint.load_into(model, state, path)
    titles, labels = (
        _to_series(tensors[name], len(counts), path) if name in tensors else None
        for name in ("titles", "labels")
    )
    items = Items(_to_series(names, len(counts), path), titles, labels)
    model = model.to(device).eval()
    return Trained(Path(path).name, model, options, items, counts, metadata.content)


def build(options: ModelOptions, counts: Tensor) -> AnyModel:
    """Return an untrained model for items with these training counts (n + 1,)."""
    if options.variant == "popular":
        return Popular(counts)
    return Recommender(len(counts) - 1, options)


def load(path: str | Path, *, device: str = "cpu") -> AnyModel:
    """Return the network of a file that `mlkit train recommend` wrote, in eval mode.

    It maps histories (B, T) of item numbers to interests (B, K, d).
    """
    return open_trained(path, device).model
