from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mlkit
from mlkit.core.errors import CheckpointError
from mlkit.core.inputs import InputSpec
from mlkit.core.zoo import Recipe
from mlkit.tasks.prune.checkpoint import load, save_model

from ...experiments.networks import cifar_resnet20
from .helpers import build, plan_for, pruned_copy, randomise


def saved(path: Path, name: str = "resnet18") -> tuple[torch.nn.Module, torch.nn.Module]:
    model = build(name)
    _, plan = plan_for(model, 64)
    pruned = pruned_copy(model, plan.slices)
    save_model(path, pruned, Recipe(name), plan.slices, {"note": "x"})
    return model, pruned


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mobilenet_v3_large", "googlenet"])
def test_loaded_models_compute_the_same_bits(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    original, pruned = saved(path, name)
    again = mlkit.load(path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), pruned.eval()(images))
    parameters = [sum(p.numel() for p in m.parameters()) for m in (original, pruned)]
    whole = tmp_path / "whole.safetensors"
    save_model(whole, original, Recipe(name), {}, {})
    ratio = path.stat().st_size / whole.stat().st_size
    assert abs(ratio - parameters[1] / parameters[0]) < 0.02


def test_detectors_with_frozen_norms_come_back_with_them(tmp_path: Path) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    name = "fasterrcnn_resnet50_fpn"
    plain = build(name)
    norms = {
        f"backbone.body.{n}": 0.0
        for n, m in plain.backbone.body.named_modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    }
    recipe = Recipe(name, frozen_norms=norms)
    model = randomise(recipe.build())
    assert isinstance(model.backbone.body.bn1, FrozenBatchNorm2d)
    assert model.backbone.body.bn1.eps == 0
    _, plan = plan_for(model, 64)
    pruned = pruned_copy(model, plan.slices)
    save_model(tmp_path / "m.safetensors", pruned, recipe, plan.slices, {})
    again = mlkit.load(tmp_path / "m.safetensors")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, wanted = again.backbone(images), pruned.backbone(images)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_code_named_by_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    torch.manual_seed(0)
    model = randomise(cifar_resnet20())
    save_model(path, model, Recipe("os:getcwd", input=InputSpec(32, 32)), {}, {})
    with pytest.raises(CheckpointError, match="may not call by itself"):
        mlkit.load(path)
    again = mlkit.load(path, factory=cifar_resnet20)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def tampered(path: Path, change: Any) -> Path:
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["mlkit"])
    change(document["content"])
    save_file(load_file(path), path, {"mlkit": json.dumps(document)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["slices"]["layer1.0.conv1"].__setitem__(1, [0, 1, 2]),
        lambda c: c["slices"]["layer1.0.conv1"].__setitem__(1, [0, 99_999]),
        lambda c: c["slices"].__setitem__("nowhere", [None, [1]]),
        lambda c: c["slices"].__setitem__("relu", [None, [1]]),
        lambda c: c.pop("recipe"),
        lambda c: c["recipe"].__setitem__("name", "resnet34"),
    ],
)
def test_a_plan_that_disagrees_with_the_tensors_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    with pytest.raises(CheckpointError):
        load(tampered(path, change))


def test_denormal_weights_become_zero(tmp_path: Path) -> None:
    model = cifar_resnet20()
    with torch.no_grad():
        model.linear.weight[0, 0] = 1e-35
        model.linear.weight[0, 1] = 1e-20
    save_model(tmp_path / "m.safetensors", model, Recipe("x:y"), {}, {})
    weight = load_file(tmp_path / "m.safetensors")["linear.weight"]
    assert weight[0, 0] == 0
    assert weight[0, 1] == 1e-20
    assert float(model.linear.weight.detach()[0, 0]) != 0


def test_a_checkpoint_of_an_unknown_method_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["mlkit"])
    save_file(load_file(path), path, {"mlkit": json.dumps({**document, "method": "..evil"})})
    with pytest.raises(CheckpointError, match="does not know"):
        mlkit.load(path)
