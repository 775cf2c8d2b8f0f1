from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.core.zoo import input_spec
from mlkit.tasks.prune.backbone import choose_taps, find_backbone, tapped
from mlkit.tasks.prune.config import PlanOptions
from mlkit.tasks.prune.data import embedded_test_images, to_inputs
from mlkit.tasks.prune.plan import find_layers, make_plan
from mlkit.tasks.prune.repair import (
    FeatureMatching,
    Student,
    compensate,
    finetune,
    reestimate_norms,
)
from mlkit.tasks.prune.zoo import EMBEDDED, open_model

from ...experiments.networks import cifar_resnet20
from .helpers import build, plan_for, pruned_copy, randomise


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 8), ("resnet34", 16), ("resnet50", 16), ("vgg16_bn", 4)]
)
def test_number_of_supervision_points(name: str, count: int) -> None:
    backbone, plan = plan_for(build(name), 64)
    assert len(choose_taps(backbone, plan.removed, "block")) == count


def test_taps_are_block_outputs() -> None:
    model = build("resnet50")
    backbone, plan = plan_for(model, 64)
    seen: list[Tensor] = []
    for name, module in model.named_modules():
        if name.count(".") == 1 and name.startswith("layer"):
            module.register_forward_hook(lambda _m, _a, value: seen.append(value.clone()))
    images = torch.randn(2, 3, 64, 64)
    model(images)
    taps = choose_taps(backbone, plan.removed, "block")
    values = tapped(backbone, model, taps)(images)
    assert len(values) == len(seen) == 16
    assert all(torch.equal(a, b) for a, b in zip(values, seen, strict=True))


def test_pre_add_taps_are_the_last_norms_of_the_branches() -> None:
    model = build("resnet18")
    backbone, plan = plan_for(model, 64)
    seen: list[Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("bn2"):
            module.register_forward_hook(lambda _m, _a, value: seen.append(value.clone()))
    images = torch.randn(2, 3, 64, 64)
    model(images)
    wanted = list(seen)
    taps = choose_taps(backbone, plan.removed, "pre-add")
    values = tapped(backbone, model, taps, clone=True)(images)
    branches = [v for v, tap in zip(values, taps, strict=True) if "bn2" in tap.node]
    assert len(branches) == 8
    assert all(torch.equal(a, b) for a, b in zip(branches, wanted, strict=True))
    assert taps[-1].node == backbone.outputs[0].name


def test_taps_keep_their_shape_in_inner_scope_and_are_cut_in_all() -> None:
    model = build("mobilenet_v2")
    images = torch.randn(1, 3, 64, 64)
    for scope in ("inner", "all"):
        backbone, plan = plan_for(model, 64, scope=scope)
        taps = choose_taps(backbone, plan.removed, "block")
        student = Student(tapped(backbone, pruned_copy(model, plan.slices), taps), True)
        objective = FeatureMatching(student, tapped(backbone, model, taps), taps, "l1", 0)
        wanted = objective.teach(images)
        assert [v.shape for v in student.eval()(images)] == [v.shape for v in wanted]
        assert any(tap.kept is not None for tap in taps) == (scope == "all")


def objective_of(student: nn.Module, teacher: nn.Module) -> FeatureMatching:
    backbone, plan = plan_for(teacher, 32)
    taps = choose_taps(backbone, plan.removed, "block")
    wrapped = Student(tapped(backbone, student, taps), True)
    return FeatureMatching(wrapped, tapped(backbone, teacher, taps).eval(), taps, "l1", 2)


def test_a_network_is_at_no_distance_from_itself_in_eval_mode() -> None:
    model = randomise(cifar_resnet20())
    objective = objective_of(copy.deepcopy(model), model)
    images = torch.randn(8, 3, 32, 32)
    assert float(objective.eval()((images,))["loss"].detach()) == 0
    assert float(objective.train()((images,))["loss"].detach()) > 0.01  # batch statistics


def test_only_norms_train_and_only_if_asked() -> None:
    network = torch.fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()))
    for update in (True, False):
        student = Student(network, update).train()
        assert student.network.get_submodule("0").training is update
        assert student.network.get_submodule("1").training is False
        assert not student.eval().network.get_submodule("0").training


def embedded_inputs(count: int) -> Tensor:
    return to_inputs(embedded_test_images().first(count).images, input_spec(EMBEDDED))


def repaired(
    tap: str = "block",
    sparsity: float = 0.5,
    lr: float = 0.01,
    progress: Silent | None = None,
    **settings: Any,
) -> tuple[nn.Module, nn.Module, nn.Module, Any]:
    """Prune the embedded network and repair it on 48 of its test images."""
    model, _ = open_model(EMBEDDED, None, None, None, False)
    backbone = find_backbone(model, (1, 28, 28))
    layers = find_layers(backbone, "inner", "l1")
    plan = make_plan(backbone, layers, PlanOptions(sparsity=sparsity), "uniform")
    pruned = pruned_copy(model, plan.slices)
    student = copy.deepcopy(pruned)
    taps = choose_taps(backbone, plan.removed, tap)
    options = TrainOptions(steps=30, batch_size=16, lr=lr, save_every=10)
    runtime = start(RunOptions(device="cpu"))
    fitted = finetune(
        backbone,
        student,
        taps,
        embedded_inputs(48),
        options,
        runtime,
        progress or Silent(),
        tap=tap,
        **settings,
    )
    return model, pruned, student, fitted


@pytest.mark.parametrize("tap", ["block", "pre-add", "output"])
def test_finetuning_brings_the_features_closer_and_leaves_the_head(tap: str) -> None:
    model, pruned, student, fitted = repaired(tap)
    assert fitted.history[-1]["score"] > fitted.history[0]["score"]
    images = embedded_inputs(112)[48:]
    with torch.no_grad():
        before = (pruned.eval()(images) - model(images)).abs().mean()
        after = (student(images) - model(images)).abs().mean()
    assert float(after) < float(before)
    assert torch.equal(student.fc.weight, model.fc.weight)
    assert torch.equal(student.fc.bias, model.fc.bias)


def test_a_repair_that_does_not_help_is_undone() -> None:
    progress = Silent()
    # Nothing was pruned: the features agree already, and every step leads away.
    _, pruned, student, fitted = repaired(sparsity=0.0, progress=progress)
    assert fitted.history  # steps were taken
    assert "as pruned" in progress.warnings[0]
    state = student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pruned.state_dict().items())


def test_frozen_norms_keep_their_statistics() -> None:
    _, pruned, student, _ = repaired(update_norms=False)
    assert torch.equal(student.bn1.running_mean, pruned.bn1.running_mean)
    _, pruned, student, _ = repaired(update_norms=True)
    assert not torch.equal(student.bn1.running_mean, pruned.bn1.running_mean)


def test_features_are_the_same_cached_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, cached, _ = repaired()
    monkeypatch.setattr("mlkit.tasks.prune.repair.CACHE_BYTES", 0)
    _, _, computed, _ = repaired()
    for a, b in zip(cached.parameters(), computed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_reestimated_norms_hold_the_statistics_of_the_images() -> None:
    model = randomise(cifar_resnet20())
    images = torch.randn(30, 3, 32, 32)
    reestimate_norms(model, images, batch=30)
    with torch.no_grad():
        first = model.conv1(images)
    torch.testing.assert_close(model.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    variance = first.var((0, 2, 3), correction=1)
    torch.testing.assert_close(model.bn1.running_var, variance, atol=1e-5, rtol=1e-4)
    assert not model.bn1.training
    assert model.bn1.momentum == 0.1


class Functional(nn.Module):
    """An activation that the tracer sees as a function call."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=True)


class Pair(nn.Module):
    def __init__(self, activation: nn.Module, norm_behind: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.activation = activation
        self.second = nn.Conv2d(12, 8, 1)
        self.behind = nn.BatchNorm2d(8) if norm_behind else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.behind(self.second(self.activation(self.norm(self.first(x)))))


@pytest.mark.parametrize("norm_behind", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.ReLU6(), Functional()])
def test_compensation_restores_the_mean(activation: nn.Module, norm_behind: bool) -> None:
    """For inputs that are normal behind the norm, the mean output is as before (Monte Carlo)."""
    torch.manual_seed(0)
    model = randomise(Pair(activation, norm_behind))
    with torch.no_grad():
        model.norm.bias.normal_(0, 1)
    backbone, plan = plan_for(model, 8, min_channels=1)
    pruned = pruned_copy(model, plan.slices)
    assert compensate(backbone, pruned, plan.slices, plan.removed) == (1, 1)
    z = torch.randn(400_000, 12, 1, 1) * model.norm.weight.view(1, -1, 1, 1)
    hidden = activation(z + model.norm.bias.view(1, -1, 1, 1)).detach()
    kept = plan.slices["norm"].outputs
    with torch.no_grad():
        wanted = model.behind(model.second(hidden)).mean(0)
        plain = pruned_copy(model, plan.slices)
        uncorrected = plain.behind(plain.second(hidden[:, kept])).mean(0)
        found = pruned.behind(pruned.second(hidden[:, kept])).mean(0)
    assert float((found - wanted).abs().max()) < 0.01
    assert float((uncorrected - wanted).abs().max()) > 0.05


def test_a_trial_finds_a_rate_that_the_network_can_bear() -> None:
    """With ten times the paper's rate the plain repair gets nowhere; the trial takes a part."""
    _, _, _, plain = repaired(lr=0.16, update_norms=False)
    _, _, _, tried = repaired(lr=0.16, update_norms=False, trial=True)
    assert tried.best > plain.best
