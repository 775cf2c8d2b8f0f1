"""The trained classifier: features of photos, and the rows of its last layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.checkpoint import load_into
from ...core.errors import CheckpointError
from ...core.runtime import Runtime
from ...core.zoo import Recipe, import_factory, open_model
from .config import BackboneOptions

DEFAULT = "efficientnet_lite0"


@dataclass(frozen=True)
class Backbone:
    """A classifier cut in two: `features` maps inputs to (n, P - 1), `weight`, `bias` follow.

    `recipe` builds it again; `own_weights` is False where they come with an installed package.
    """

    features: nn.Module
    weight: Tensor
    bias: Tensor
    recipe: Recipe
    last: str
    own_weights: bool

    @property
    def rows(self) -> Tensor:
        """The rows (S, P) of the last layer, bias behind, as they are."""
        return torch.cat((self.weight, self.bias[:, None]), 1)

    @property
    def targets(self) -> Tensor:
        """The rows (S, P) of norm 1: weight and bias are normalised jointly."""
        return F.normalize(self.rows, dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return the classifier's weights under the names that it was loaded with."""
        whole = dict(self.features.state_dict())
        return whole | {f"{self.last}.weight": self.weight, f"{self.last}.bias": self.bias}

    @torch.no_grad()
    def extend(self, inputs: Tensor, runtime: Runtime) -> Tensor:
        """Return features with a 1 behind (n, P), on the CPU, for inputs (n, C, H, W)."""
        with runtime.autocast():
            found = self.features(inputs.to(runtime.device)).float().cpu()
        return append_one(found)


def append_one(features: Tensor) -> Tensor:
    """Return (n, P) for (n, P - 1): the last entry of a row is its bias."""
    return F.pad(features, (0, 1), value=1.0)


def split(model: nn.Module, recipe: Recipe, own_weights: bool) -> Backbone:
    """Cut a classifier before its last linear layer. Raises `CheckpointError` when it has none."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise CheckpointError(
            f"{recipe.name} has no linear layer to take the classes' rows from",
            "give a classifier that ends in one, such as resnet50",
        )
    parent, _, child = names[-1].rpartition(".")
    linear = model.get_submodule(names[-1])
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().clone()
    bias = (
        linear.bias.detach().clone() if linear.bias is not None else weight.new_zeros(len(weight))
    )
    setattr(model.get_submodule(parent), child, nn.Identity())
    return Backbone(model.eval(), weight, bias, recipe, names[-1], own_weights)


def open_backbone(options: BackboneOptions, classes: int) -> Backbone:
    """Return the classifier that the options name, whose last layer has `classes` rows.

    Raises `CheckpointError` when weights are missing or the class list has another length.
    """
    name = options.backbone or DEFAULT
    file = str(options.backbone_weights) if options.backbone_weights else None
    default = name == DEFAULT and options.factory is None
    model, recipe = open_model(
        name, file, classes if file and not default else None, options.factory, False
    )
    found = split(model, recipe, own_weights=not default or file is not None)
    if len(found.weight) != classes:
        raise CheckpointError(
            f"{recipe.name} has {len(found.weight)} classes, the list of seen classes {classes}",
            "--seen FILE must name the classifier's classes, one a line, in its order",
        )
    return found


def restore(
    content: dict[str, Any], state: dict[str, Tensor], path: str | Path, factory: str | None
) -> Backbone:
    """Return the classifier that a checkpoint describes; its weights, or those of the package."""
    recipe = Recipe.from_dict(content["recipe"])
    if not content["own_weights"]:
        model, recipe = open_model(recipe.name, None, None, None, False)
        return split(model, recipe, own_weights=False)
    model = recipe.build(import_factory(factory) if factory else None)
    load_into(model, state, path)
    return split(model, recipe, own_weights=True)
