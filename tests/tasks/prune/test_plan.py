from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from mlkit.core.accounting import count_macs, count_parameters
from mlkit.core.errors import DataError
from mlkit.tasks.prune.backbone import find_backbone
from mlkit.tasks.prune.config import PlanOptions
from mlkit.tasks.prune.plan import find_layers, layer_ratio, make_plan
from mlkit.tasks.prune.surgery import Slice, compose

from .helpers import build, plan_for, pruned_copy


def special_case(model: resnet.ResNet, sparsity: float) -> dict[str, Slice]:
    """Prune a ResNet by the table of the specification (2.1), without any tracing."""
    slices: dict[str, dict[str, list[int]]] = {}

    def cut(block: str, conv: str, norm: str, following: str) -> None:
        weight = model.get_submodule(f"{block}.{conv}").weight
        scores = weight.detach().abs().sum((1, 2, 3))
        gone = scores.argsort()[: int(len(scores) * sparsity)]
        kept = [i for i in range(len(scores)) if i not in set(gone.tolist())]
        slices.setdefault(f"{block}.{conv}", {})["outputs"] = kept
        slices.setdefault(f"{block}.{norm}", {})["outputs"] = kept
        slices.setdefault(f"{block}.{following}", {})["inputs"] = kept

    for name, module in model.named_modules():
        if isinstance(module, BasicBlock | Bottleneck):
            cut(name, "conv1", "bn1", "conv2")
        if isinstance(module, Bottleneck):
            cut(name, "conv2", "bn2", "conv3")
    return {name: Slice(**parts) for name, parts in slices.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_tracing_gives_what_the_special_case_for_resnets_gives(name: str) -> None:
    model = build(name)
    _, plan = plan_for(model, 64)
    assert plan.slices == special_case(model, 0.5)


@pytest.mark.parametrize(
    ("name", "schedule", "sparsity", "gmacs", "millions"),
    [
        ("resnet50", "uniform", 0.5, 1.82, 12.38),
        ("resnet50", "layer-dependent", 0.5, 2.28, 11.09),
        ("resnet50", "uniform", 0.3, 2.63, 17.0),
        ("resnet50", "layer-dependent", 0.7, 1.74, 7.5),
        ("resnet18", "uniform", 0.5, 0.98, 6.2),
        ("resnet18", "layer-dependent", 0.5, 1.18, 5.2),
        ("resnet34", "layer-dependent", 0.5, 2.29, 9.7),
    ],
)
def test_published_costs(
    name: str, schedule: str, sparsity: float, gmacs: float, millions: float
) -> None:
    model = build(name)
    backbone = find_backbone(model, (3, 224, 224))
    layers = find_layers(backbone, "inner", "l1")
    plan = make_plan(backbone, layers, PlanOptions(sparsity=sparsity), schedule)
    pruned = pruned_copy(model, plan.slices)
    digits = 2 if millions > 11 and millions != 17.0 else 1
    assert round(count_parameters(pruned) / 1e6, digits) == millions
    assert round(count_macs(pruned, (1, 3, 224, 224)) / 1e9, 2) == gmacs


def test_the_papers_cifar_resnet18_backbone() -> None:
    model = resnet.ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    backbone = find_backbone(model.eval(), (3, 32, 32))
    layers = find_layers(backbone, "inner", "l1")
    plan = make_plan(backbone, layers, PlanOptions(sparsity=0.5), "layer-dependent")
    pruned = pruned_copy(model, plan.slices)
    assert round((count_parameters(pruned) - 5130) / 1e6, 2) == 4.65


def test_vgg_keeps_the_first_two_and_the_last_of_each_stage() -> None:
    backbone = find_backbone(build("vgg16_bn"), (3, 64, 64))
    names = [layer.name for layer in find_layers(backbone, "inner", "l1")]
    assert names == [f"features.{i}" for i in (7, 14, 17, 24, 27, 34, 37)]


def test_layer_dependent_ratios() -> None:
    ratios = {w: layer_ratio(w, 0.5, "layer-dependent") for w in (64, 200, 201, 499, 500, 512)}
    assert ratios == {64: 0.2, 200: 0.2, 201: 0.5, 499: 0.5, 500: 0.65, 512: 0.65}
    assert layer_ratio(512, 0.9, "layer-dependent") == 1.0


def test_nothing_goes_at_sparsity_zero() -> None:
    _, plan = plan_for(build("resnet18"), 64, sparsity=0.0)
    assert len(plan.removed) == 0
    assert plan.slices == {}


def test_the_lowest_scores_go_and_counts_are_rounded() -> None:
    model = build("resnet18")
    backbone = find_backbone(model, (3, 64, 64))
    for criterion, power in (("l1", 1), ("l2", 2)):
        layer = find_layers(backbone, "inner", criterion)[0]
        weight = model.layer1[0].conv1.weight.detach().double()
        expected = weight.abs().pow(power).sum((1, 2, 3)).numpy()
        np.testing.assert_allclose(layer.scores, expected, rtol=1e-5)
    signed = find_layers(backbone, "inner", "bn")[0].scores
    np.testing.assert_allclose(signed, model.layer1[0].bn1.weight.detach().numpy())
    layer = find_layers(backbone, "inner", "l1")[0]
    options = PlanOptions(sparsity=0.6, round_to=16)
    plan = make_plan(backbone, [layer], options, "uniform")
    assert plan.cuts[0].after == 32  # 64 - 38 = 26, rounded up
    gone = np.isin(layer.ids, plan.removed)
    assert layer.scores[gone].max() <= layer.scores[~gone].min()


def test_a_floor_of_channels_stays() -> None:
    _, plan = plan_for(build("resnet18"), 64, sparsity=0.99, min_channels=10)
    assert {cut.after for cut in plan.cuts} == {10}
    _, plan = plan_for(build("resnet18"), 64, sparsity=0.999, min_channels=1)
    assert min(cut.after for cut in plan.cuts) == 1


def test_grouped_convolutions_lose_the_same_from_each_group() -> None:
    model = build("resnext50_32x4d")
    _, plan = plan_for(model, 64)
    part = plan.slices["layer1.0.conv2"]
    assert part.inputs is not None
    assert part.outputs is not None
    for kept in (part.inputs, part.outputs):
        assert np.bincount(np.array(kept) // 4, minlength=32).tolist() == [2] * 32


def test_named_layers_are_left_alone() -> None:
    backbone = find_backbone(build("resnet18"), (3, 64, 64))
    names = [layer.name for layer in find_layers(backbone, "inner", "l1", ["layer1", "layer4.0"])]
    assert names == [
        "layer2.0.conv1",
        "layer2.1.conv1",
        "layer3.0.conv1",
        "layer3.1.conv1",
        "layer4.1.conv1",
    ]
    with pytest.raises(DataError, match="--keep layer9"):
        find_layers(backbone, "inner", "l1", ["layer9"])


def test_heads_are_never_cut() -> None:
    for name in ("fasterrcnn_resnet50_fpn", "deeplabv3_resnet50"):
        _, plan = plan_for(build(name), 64, scope="all")
        assert all(part.startswith("backbone.") for part in plan.slices)
        assert not any(".fpn." in part for part in plan.slices)
    _, plan = plan_for(build("vgg16_bn"), 64, scope="all")
    assert all(part.startswith("features.") for part in plan.slices)


def test_two_cuts_compose() -> None:
    first = {"a": Slice([0, 2, 5], None), "b": Slice(None, [1, 3])}
    second = {"a": Slice([1, 2], [4]), "c": Slice(None, [0])}
    assert compose(first, second) == {
        "a": Slice([2, 5], [4]),
        "b": Slice(None, [1, 3]),
        "c": Slice(None, [0]),
    }


# --- operations that must protect what reaches them ---


class Between(nn.Module):
    """Two convolutions in a residual branch with something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.second(self.between(self.first(x)))
        return self.fc(self.pool(x).flatten(1))


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator]


PROTECTING = {
    "group norm": nn.GroupNorm(4, 16),
    "instance norm": nn.InstanceNorm2d(16, affine=True),
    "softmax over channels": nn.Softmax(dim=1),
    "fixed view": Function(lambda x: x.view(-1, 16, 64).view(-1, 16, 8, 8)),
    "channel split": Function(lambda x: torch.cat((x[:, 8:], x[:, :8]), 1)),
    "chunks": Function(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "shuffle": Function(lambda x: x.view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)),
    "einsum": Function(lambda x: torch.einsum("nchw,cd->ndhw", x, torch.ones(16, 16))),
    "cumulative sum": Function(lambda x: x.cumsum(1)),
    "constant per channel": Function(lambda x: x * torch.arange(16.0).view(1, 16, 1, 1)),
    "mean over channels": Function(lambda x: x.mean(1, keepdim=True).expand(-1, 16, -1, -1)),
    "normalise": Function(lambda x: F.normalize(x, dim=1)),
}


@pytest.mark.parametrize("name", PROTECTING)
def test_what_mixes_channels_protects_them(name: str) -> None:
    torch.manual_seed(0)
    model = Between(PROTECTING[name]).eval()
    backbone = find_backbone(model, (3, 8, 8))
    assert "first" not in [layer.name for layer in find_layers(backbone, "inner", "l1")]


HARMLESS = {
    "relu": nn.ReLU(),
    "functional": Function(lambda x: F.hardswish(x * 2 + 1)),
    "pools": nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)),
    "permutation": Function(lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)),
    "flattening": Function(lambda x: x.flatten(2).view(x.size(0), x.size(1), 8, 8)),
    "spatial padding": Function(lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]),
    "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "gate": Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "own statistics": nn.BatchNorm2d(16),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_treats_channels_alone_lets_them_go(name: str) -> None:
    torch.manual_seed(0)
    model = Between(HARMLESS[name]).eval()
    backbone = find_backbone(model, (3, 8, 8))
    layers = find_layers(backbone, "inner", "l1")
    assert [layer.name for layer in layers] == ["first"]
    plan = make_plan(backbone, layers, PlanOptions(), "uniform")
    x = torch.randn(2, 3, 8, 8)
    assert pruned_copy(model, plan.slices)(x).shape == (2, 4)


def test_a_linear_layer_behind_flattened_channels_loses_whole_blocks() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 24),
        nn.ReLU(),
        nn.Linear(24, 7),
    )
    model = nn.Sequential(features).eval()
    backbone = find_backbone(model, (3, 4, 4))
    layers = find_layers(backbone, "all", "l1")
    plan = make_plan(backbone, layers, PlanOptions(), "uniform")
    kept = plan.slices["0.4"].outputs
    assert kept is not None
    columns = [c * 16 + i for c in kept for i in range(16)]
    assert plan.slices["0.7"].inputs == columns


def test_an_untraceable_network_is_refused_with_the_reason() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(DataError, match=r"Branching.*control flow"):
        find_backbone(Branching(), (3, 8, 8))
