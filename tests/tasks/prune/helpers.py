"""What several test modules of `prune` need."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models as tv

from mlkit.tasks.prune.backbone import Backbone, find_backbone
from mlkit.tasks.prune.config import PlanOptions
from mlkit.tasks.prune.plan import Plan, find_layers, make_plan
from mlkit.tasks.prune.surgery import Norm, Slices, apply_slices


def build(name: str, **settings: Any) -> nn.Module:
    """Return an untrained torchvision model whose norms hold random statistics."""
    torch.manual_seed(0)
    builder = tv.get_model_builder(name)
    settings = {"weights": None, **settings}
    if "weights_backbone" in builder.__annotations__:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        settings.update(aux_logits=False, init_weights=False, transform_input=True)
    return randomise(builder(**settings))


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give all norms random weights and statistics, as if trained."""
    for module in model.modules():
        if isinstance(module, Norm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def plan_for(
    model: nn.Module, size: int, sparsity: float = 0.5, scope: Any = "inner", **options: Any
) -> tuple[Backbone, Plan]:
    """Return the backbone of a model and a uniform plan for it."""
    backbone = find_backbone(model, (3, size, size))
    layers = find_layers(backbone, scope, "l1")
    plan = make_plan(backbone, layers, PlanOptions(sparsity=sparsity, **options), "uniform")
    return backbone, plan


def pruned_copy(model: nn.Module, slices: Slices) -> nn.Module:
    """Return a copy with the channels cut out."""
    pruned = copy.deepcopy(model)
    apply_slices(pruned, slices)
    return pruned


@torch.no_grad()
def zeroed_copy(model: nn.Module, slices: Slices) -> nn.Module:
    """Return a copy of the original size in which the removed channels are zero instead.

    All parameters that make a channel are set to zero: rows and biases of the layers that
    produce it, scale and shift of the norms behind them.
    """
    zeroed = copy.deepcopy(model)
    for name, part in slices.items():
        if part.outputs is None:
            continue
        module = zeroed.get_submodule(name)
        gone = torch.ones(module.weight.shape[0], dtype=torch.bool)
        gone[part.outputs] = False
        module.weight[gone] = 0
        if getattr(module, "bias", None) is not None:
            module.bias[gone] = 0
    return zeroed


def outputs(model: nn.Module, backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Return everything that the traced part of a model returns."""
    with torch.no_grad():
        found = model.get_submodule(backbone.prefix)(images)
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, tuple) else [found]
