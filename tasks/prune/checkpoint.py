"""The file of a pruned (or freshly trained) model: weights, recipe and plan in one safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError
from ...core.zoo import Recipe
from .surgery import Slice, Slices, apply_slices

METHOD = "prune"


def save_model(
    path: str | Path, model: nn.Module, recipe: Recipe, slices: Slices, content: dict[str, Any]
) -> None:
    """Write `model`, how to build it, and what was cut from it, in one step.

    Weights below 1e-30 in magnitude become 0: denormal numbers slow CPUs down several-fold.
    """
    tensors = {name: _without_denormals(t) for name, t in model.state_dict().items()}
    parts = {name: [part.inputs, part.outputs] for name, part in slices.items()}
    document = {"recipe": recipe.to_dict(), "slices": parts, **content}
    checkpoint.save(path, tensors, Metadata(METHOD, "model", document))


def _without_denormals(tensor: Tensor) -> Tensor:
    # A fresh copy: safetensors refuses tensors that share memory.
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor.masked_fill_(tensor.abs() < 1e-30, 0) if tensor.is_floating_point() else tensor


@overload
def load(
    path: str | Path,
    *,
    device: str = "cpu",
    factory: Callable[..., nn.Module] | None = None,
    with_recipe: Literal[False] = False,
) -> nn.Module: ...


@overload
def load(
    path: str | Path,
    *,
    device: str = "cpu",
    factory: Callable[..., nn.Module] | None = None,
    with_recipe: Literal[True],
) -> tuple[nn.Module, Recipe]: ...


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    factory: Callable[..., nn.Module] | None = None,
    with_recipe: bool = False,
) -> nn.Module | tuple[nn.Module, Recipe]:
    """Return the model in a file that `mlkit prune` or `mlkit train prune` wrote, in eval mode.

    Builds the original architecture, cuts it to the stored plan, and loads all tensors strictly.
    `factory` is needed for models that came from a user's own function. Raises
    `CheckpointError` when plan and tensors disagree.
    """
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        recipe = Recipe.from_dict(metadata.content["recipe"])
        parts = metadata.content["slices"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata lacks {error}") from error
    model = recipe.build(factory)
    try:
        apply_slices(model, slices_from_dict(parts))
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: its plan does not fit {recipe.name} ({error})") from error
    checkpoint.load_into(model, tensors, path)
    model = model.to(device).eval()
    return (model, recipe) if with_recipe else model


def slices_from_dict(parts: dict[str, Any]) -> dict[str, Slice]:
    """Undo what `save_model` does to slices."""
    return {name: Slice(inputs, outputs) for name, (inputs, outputs) in parts.items()}
