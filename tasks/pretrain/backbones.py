"""Video networks: clips (B, 3, T, S, S) to features (B, D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from .config import BackboneName

Width = float


class Bottleneck(nn.Module):
    """1x1 (or 3x1x1 in time), 3x3, 1x1, beside a shortcut; the stride is that of the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, inner: int, stride: int, temporal: int) -> None:
        super().__init__()
        outputs = inner * self.expansion
        self.conv1 = _conv(inputs, inner, (temporal, 1, 1))
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = _conv(inner, inner, (1, 3, 3), stride)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = _conv(inner, outputs, (1, 1, 1))
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * inner, T, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first one spans time where `temporal` is 3."""

    expansion = 1

    def __init__(self, inputs: int, inner: int, stride: int, temporal: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, inner, (temporal, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = _conv(inner, inner, (1, 3, 3))
        self.bn2 = nn.BatchNorm3d(inner)
        self.downsample = _shortcut(inputs, inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, inner, T, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def _conv(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, (1, 1, 1), stride), nn.BatchNorm3d(outputs))


class Slow(nn.Module):
    """The Slow pathway of SlowFast: a 2-D ResNet whose last two stages also look along time.

    Time is never shortened before the end. Feichtenhofer et al., "SlowFast Networks", ICCV 2019.
    """

    def __init__(
        self,
        block: type[Bottleneck | Basic],
        depths: Sequence[int],
        width: Width = 1.0,
        temporal: Sequence[int] = (1, 1, 3, 3),
        stem: int = 64,
    ) -> None:
        super().__init__()
        channels = _scaled(stem, width)
        self.conv1 = nn.Conv3d(3, channels, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        for number, (depth, kernel) in enumerate(zip(depths, temporal, strict=True)):
            inner = _scaled(64 * 2**number, width)
            blocks = []
            for i in range(depth):
                blocks.append(block(channels, inner, 2 if number and i == 0 else 1, kernel))
                channels = inner * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.features = channels
        _initialise(self)

    def maps(self, clips: Tensor) -> Tensor:
        """Return the last stage's maps (B, D, T, S / 32, S / 32)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(clips))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Return features (B, D): the mean over time and space."""
        return self.maps(clips).mean((2, 3, 4))


class Tiny(nn.Module):
    """A network of less than a million parameters for small pictures and small machines.

    Stem of 24 channels, then stages of 32, 64 and 128; the last two look along time.
    """

    def __init__(self, width: Width = 1.0) -> None:
        super().__init__()
        stem, *stages = (_scaled(count, width) for count in (24, 32, 64, 128))
        layers: list[nn.Module] = [_conv(3, stem, (1, 5, 5), 2), nn.BatchNorm3d(stem), nn.ReLU()]
        channels = stem
        for number, inner in enumerate(stages):
            layers.append(Basic(channels, inner, 2 if number else 1, 3 if number else 1))
            channels = inner
        self.layers = nn.Sequential(*layers)
        self.features = channels
        _initialise(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Return features (B, 128 * width)."""
        return self.layers(clips).mean((2, 3, 4))


class FromTorchvision(nn.Module):
    """A video network of torchvision without its classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import video

        network = getattr(video, name)(weights=None)
        if name == "s3d":  # its average pool wants 7 x 7 maps: we take the mean of any
            self.body, self.features = network.features, 1024
        else:
            self.body = nn.Sequential(
                network.stem, network.layer1, network.layer2, network.layer3, network.layer4
            )
            self.features = 512

    def forward(self, clips: Tensor) -> Tensor:
        """Return features (B, D)."""
        return self.body(clips).mean((2, 3, 4))


def _scaled(channels: int, width: Width) -> int:
    return max(8, round(channels * width / 8) * 8)


def _initialise(network: nn.Module) -> None:
    """He's initialisation by fan-out for convolutions; norms start at weight 1, bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_BUILDERS: dict[BackboneName, Callable[[Width], nn.Module]] = {
    "tiny": Tiny,
    "slow_r18": lambda width: Slow(Basic, (2, 2, 2, 2), width),
    "slow_r50": lambda width: Slow(Bottleneck, (3, 4, 6, 3), width),
    "r2plus1d_18": lambda width: FromTorchvision("r2plus1d_18"),
    "s3d": lambda width: FromTorchvision("s3d"),
}
assert set(_BUILDERS) == set(get_args(BackboneName))


def build_backbone(name: BackboneName, width: Width = 1.0) -> tuple[nn.Module, int]:
    """Return a network with random weights, and the number of its features D."""
    network = _BUILDERS[name](width)
    return network, int(network.features)  # type: ignore[arg-type]
