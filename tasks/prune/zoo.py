"""The models that prune opens: those of core, and the small one that comes with its weights."""

from __future__ import annotations

from importlib.resources import files

from torch import nn

from ...core import zoo
from ...core.zoo import Recipe

EMBEDDED = zoo.FASHION


def open_model(
    name: str,
    weights: str | None,
    num_classes: int | None,
    factory: str | None,
    random_init: bool,
) -> tuple[nn.Module, Recipe]:
    """Do what `core.zoo.open_model` does; the embedded network has weights of its own."""
    if name == EMBEDDED and not (weights or factory or random_init):
        weights = str(files(__package__) / "weights" / f"{EMBEDDED}.safetensors")
    return zoo.open_model(name, weights, num_classes, factory, random_init)
