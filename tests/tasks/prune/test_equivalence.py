"""Cutting a channel out equals setting it to zero, on every kind of network we claim."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlkit.core.networks import EfficientNetLite

from ...experiments import networks
from .helpers import build, outputs, plan_for, pruned_copy, randomise, zeroed_copy

CLASSIFIERS = {
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "vgg16_bn": 64,
    "alexnet": 96,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "regnet_y_400mf": 64,
    "shufflenet_v2_x1_0": 64,
    "mnasnet1_0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "convnext_tiny": 64,
    "squeezenet1_0": 64,
    "vit_b_16": 224,
    "swin_t": 64,
}
DETECTORS = {
    "fasterrcnn_resnet50_fpn": 64,
    "fasterrcnn_resnet50_fpn_v2": 64,
    "fasterrcnn_mobilenet_v3_large_fpn": 64,
    "retinanet_resnet50_fpn": 64,
    "fcos_resnet50_fpn": 64,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "maskrcnn_resnet50_fpn": 64,
    "keypointrcnn_resnet50_fpn": 64,
    "deeplabv3_resnet50": 64,
}


def check(model: nn.Module, size: int, scope: str) -> None:
    backbone, plan = plan_for(model, size, scope=scope)
    assert len(plan.removed) > 0
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    pruned = pruned_copy(model, plan.slices)
    smaller = sum(p.numel() for p in pruned.parameters())
    assert smaller < sum(p.numel() for p in model.parameters())
    found = outputs(pruned, backbone, images)
    wanted = outputs(zeroed_copy(model, plan.slices), backbone, images)
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str, scope: str) -> None:
    model = build(name)
    if name == "vit_b_16":  # its head starts at zero, which would compare nothing with nothing
        nn.init.normal_(model.heads.head.weight)
    check(model, CLASSIFIERS[name], scope)


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_and_segmenters(name: str, scope: str) -> None:
    check(build(name), DETECTORS[name], scope)


def test_frozen_norms_as_pretrained_detectors_have_them() -> None:
    from torchvision.models import resnet50
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(0)
    trunk = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    model = randomise(FasterRCNN(_resnet_fpn_extractor(trunk, 3), 91))
    check(model, 64, "inner")


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize(
    ("network", "size"),
    [(networks.cifar_resnet20, 32), (networks.fastestdet, 352), (EfficientNetLite, 64)],
)
def test_published_networks_outside_torchvision(network: type, size: int, scope: str) -> None:
    torch.manual_seed(0)
    check(randomise(network()), size, scope)
