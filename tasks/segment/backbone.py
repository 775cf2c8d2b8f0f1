"""Features of the picture on three levels, all on the finest level's grid."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...core.errors import UsageError
from ...core.inputs import InputSpec
from ...core.networks import LiteFeatures
from ...core.zoo import fill_backbone, input_spec
from .config import Backbone


class Mini(nn.Module):
    """Six convolutions, stride 4, trained from scratch; 64, 48 and 32 channels."""

    channels = (64, 48, 32)
    spec = InputSpec(mean=(0.5,) * 3, std=(0.25,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Sequential(_block(3, 24, 2), _block(24, 32, 2), _block(32, 32))
        self.fourth = _block(32, 48)
        self.fifth = nn.Sequential(_block(48, 64, dilation=2), _block(64, 64))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return levels (5, 4, 3) of normalised images (I, 3, S, S), each (I, C, S/4, S/4)."""
        third = self.third(images)
        fourth = self.fourth(third)
        return self.fifth(fourth), fourth, third


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class DilatedResNet(nn.Module):
    """torchvision's ResNet with stride 8: dilation 2 and 4 in the last two stages.

    Like torchvision, and unlike DeepLab v2, the first unit of a dilated stage keeps the
    dilation before.
    """

    channels = (2048, 1024, 512)

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import get_model

        dilated = [False, True, True]
        net = get_model(name, weights=None, replace_stride_with_dilation=dilated)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            net.layer1,
            net.layer2,
            net.layer3,
            net.layer4,
        )
        self.spec = input_spec(name)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return levels (5, 4, 3) of normalised images, each (I, C, S/8, S/8)."""
        third = self.layer2(self.layer1(self.stem(images)))
        fourth = self.layer3(third)
        return self.layer4(fourth), fourth, third


class LiteLevels(LiteFeatures):
    """EfficientNet-Lite0's maps on one grid: the coarser two are enlarged to stride 8."""

    channels = (320, 112, 40)

    def __init__(self) -> None:
        super().__init__()
        self.spec = input_spec("efficientnet_lite0")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return levels (5, 4, 3) of normalised images, each (I, C, S/8, S/8)."""
        third, *coarser = super().forward(images)
        size = third.shape[2:]
        larger = (interpolate(x, size, mode="bilinear") for x in reversed(coarser))
        return (*larger, third)


AnyBackbone = Mini | DilatedResNet | LiteLevels


def make_backbone(name: Backbone) -> AnyBackbone:
    """Return the untrained features network."""
    if name == "mini":
        return Mini()
    return LiteLevels() if name == "efficientnet_lite0" else DilatedResNet(name)


def load_pretrained(backbone: AnyBackbone, name: Backbone, weights: Path | None) -> None:
    """Fill a backbone with the weights of an ImageNet classifier: a file, or its usual ones.

    Raises `UsageError` for mini, which has none, and what `core.zoo.fill_backbone` raises.
    """
    if name == "mini":
        raise UsageError("--weights: the backbone mini has no pretrained weights", "leave it out")
    fill_backbone(backbone, name, weights, _place)


def _place(key: str) -> str:
    """Return where a classifier's tensor stands in the backbone."""
    for number, part in enumerate(("conv1.", "bn1.")):
        if key.startswith(part):
            return f"stem.{number}.{key.removeprefix(part)}"
    return key


def spatial_map(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (H, W, 8): xmin ymin xmax ymax xc yc in [-1, 1], 1/W, 1/H of every cell."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    xmin, ymin = 2 * x / width - 1, 2 * y / height - 1
    xmax, ymax = 2 * (x + 1) / width - 1, 2 * (y + 1) / height - 1
    sizes = (torch.full_like(x, 1 / width), torch.full_like(x, 1 / height))
    return torch.stack((xmin, ymin, xmax, ymax, (xmin + xmax) / 2, (ymin + ymax) / 2, *sizes), -1)
