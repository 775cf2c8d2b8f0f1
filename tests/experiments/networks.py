"""Published networks that torchvision does not have, as factories for `--factory`.

Their real, trained weights are read with `--weights`; see the experiments for the files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _PaddedBlock(nn.Module):
    """Basic block whose shortcut subsamples and pads with zero channels (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """The CIFAR-10 residual networks of He et al. 2016, section 4.2."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = _PaddedBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(_PaddedBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def cifar_resnet20() -> nn.Module:
    """ResNet-20 for CIFAR-10."""
    return CifarResNet(3)


def cifar_resnet56() -> nn.Module:
    """ResNet-56 for CIFAR-10."""
    return CifarResNet(9)


cifar_resnet20.input_spec = cifar_resnet56.input_spec = {"size": 32, "resize": 32}


class _Unit(nn.Module):
    """ShuffleNetV2 unit; units of stride 1 pass the even channels on and work on the odd ones."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.branch_main = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, outputs - inputs, 1, bias=False),
            nn.BatchNorm2d(outputs - inputs),
            nn.ReLU(inplace=True),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, inputs, 1, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(inplace=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat((self.branch_proj(x), self.branch_main(x)), 1)
        n, c, h, w = x.shape
        halves = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        return torch.cat((halves[0], self.branch_main(halves[1])), 1)


class _Shuffle(nn.Module):
    """The backbone of FastestDet, three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for stage, (repeats, outputs) in enumerate(((4, 48), (8, 96), (4, 192)), start=2):
            units = [_Unit(inputs, outputs, outputs // 2, 2)]
            units += [_Unit(outputs // 2, outputs, outputs // 2, 1) for _ in range(repeats - 1)]
            setattr(self, f"stage{stage}", nn.Sequential(*units))
            inputs = outputs

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool(self.first_conv(images))
        p1 = self.stage2(x)
        p2 = self.stage3(p1)
        return p1, p2, self.stage4(p2)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _depthwise(width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width, width, 5, 1, 2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]


class _Conv1x1(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = _conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x)


class _Spp(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = _Conv1x1(inputs, width)
        for depth in (1, 2, 3):
            layers = [layer for _ in range(depth) for layer in _depthwise(width)]
            setattr(self, f"S{depth}", nn.Sequential(*layers))
        self.output = nn.Sequential(
            nn.Conv2d(width * 3, width, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return F.relu(x + self.output(torch.cat((self.S1(x), self.S2(x), self.S3(x)), 1)))


class _Head(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(
            *_depthwise(inputs), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv5x5(x)


class _DetectHead(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = _Conv1x1(width, width)
        self.obj_layers = _Head(width, 1)
        self.reg_layers = _Head(width, 4)
        self.cls_layers = _Head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return torch.cat(
            (self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(1)), 1
        )


class FastestDet(nn.Module):
    """FastestDet: an anchor-free COCO detector. Input (N, 3, 352, 352) BGR in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Shuffle()
        self.SPP = _Spp(336, 96)
        self.detect_head = _DetectHead(96, 80)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 85, 22, 22): objectness, box, class probabilities per cell."""
        p1, p2, p3 = self.backbone(images)
        p1 = F.avg_pool2d(p1, 3, 2, 1)
        p3 = F.interpolate(p3, scale_factor=2)
        return self.detect_head(self.SPP(torch.cat((p1, p2, p3), 1)))


def fastestdet() -> nn.Module:
    """FastestDet with 80 COCO classes."""
    return FastestDet()


fastestdet.input_spec = {
    "size": 352,
    "resize": 352,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "squash": True,
}
