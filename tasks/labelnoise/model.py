"""Classifiers that also return the features which ACD compares, and the pair that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice, plus a shortcut of the activated input where the shape changes.

    He, Zhang, Ren, Sun 2016, "Identity mappings in deep residual networks".
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H / stride, W / stride) for (N, inputs, H, W)."""
        active = torch.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(torch.relu(self.bn2(self.conv1(active)))) + kept


class PreActResNet(nn.Module):
    """Stem conv-BN-ReLU, stages of pre-activation blocks, global average, one linear layer.

    DivideMix's PreAct ResNet-18 has widths 64, 128, 256, 512 and two blocks each, and, as here,
    no activation behind the last block, so that features may be negative.
    """

    def __init__(self, classes: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        width = widths[0]
        for stage, outputs in enumerate(widths):
            for number in range(blocks):
                layers.append(PreActBlock(width, outputs, 2 if stage and number == 0 else 1))
                width = outputs
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return features (N, d) of normalised images (N, 3, H, W)."""
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.layers(x).mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, d)."""
        return self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, 3, H, W)."""
        return self.head(self.features(images))


class TorchvisionResNet(nn.Module):
    """A torchvision ResNet, cut before its linear layer."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        from torchvision import models

        self.body = getattr(models, name)(weights=None)
        self.fc = nn.Linear(self.body.fc.in_features, classes)
        self.body.fc = nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        """Return features (N, d) of normalised images (N, 3, H, W)."""
        return self.body(images)

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, d)."""
        return self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, 3, H, W)."""
        return self.head(self.features(images))


Network = PreActResNet | TorchvisionResNet

BUILDERS: dict[str, Callable[[int], Network]] = {
    "small": lambda classes: PreActResNet(classes, (16, 32, 64), 1),
    "preact18": lambda classes: PreActResNet(classes, (64, 128, 256, 512), 2),
    "resnet18": lambda classes: TorchvisionResNet("resnet18", classes),
    "resnet34": lambda classes: TorchvisionResNet("resnet34", classes),
    "resnet50": lambda classes: TorchvisionResNet("resnet50", classes),
}


class Pair(nn.Module):
    """Two networks that teach each other; together they answer with the sum of their logits."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.first: Network
        self.second: Network
        self.first, self.second = BUILDERS[name](classes), BUILDERS[name](classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the summed logits (N, classes) of normalised images (N, 3, H, W)."""
        return self.first(images) + self.second(images)
