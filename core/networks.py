"""Two networks that torchvision does not have: a small residual one, and EfficientNet-Lite.

Both are built from plain modules, so that pruning them needs no special case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class SmallResNet(nn.Module):
    """A residual network for small images: a 3x3 stem, three stages of basic blocks, one linear.

    `widths` are the channels of the stages; the second and third halve the resolution
    (He et al. 2016, section 4.2, with projection shortcuts).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[0], blocks, 1)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, H, W), normalised."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock  # seconds, which EfficientNet-Lite can spare

    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


# Expansion, output channels, repeats, stride, kernel of each stage (EfficientNet, Table 1).
_LITE_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: EfficientNet-B0 without squeeze-excitation and with ReLU6.

    Keeps TensorFlow's "SAME" padding, which for stride 2 pads more at the right and bottom.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 32
        for expansion, outputs, repeats, stride, kernel in _LITE_STAGES:
            for i in range(repeats):
                blocks.append(
                    _LiteBlock(width, outputs, expansion, stride if i == 0 else 1, kernel)
                )
                width = outputs
        self.features = nn.Sequential(_conv(3, 32, 3, 2), *blocks, _conv(width, 1280, 1, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, 3, 224, 224), (pixel - 127) / 128."""
        x = self.avgpool(self.features(images)).flatten(1)
        return self.classifier(self.dropout(x))


class LiteFeatures(nn.Module):
    """The first `levels` maps of EfficientNet-Lite0 at strides 8, 16 and 32, no classifier."""

    WIDTHS = (40, 112, 320)
    ENDS = (5, 11, 16)  # the last block of each stride

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.widths, self.ends = self.WIDTHS[:levels], self.ENDS[:levels]
        self.stride = 4 * 2**levels  # of the coarsest map
        self.features = EfficientNetLite().features[: self.ends[-1] + 1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of normalised images (I, 3, H, W), each (I, C, H/stride, W/stride).

        Sides that a stride does not divide are rounded up, with zeros at the right and bottom.
        """
        height, width = images.shape[2:]
        images, maps = pad(images, (0, -width % self.stride, 0, -height % self.stride)), []
        for place, block in enumerate(self.features):
            images = block(images)
            if place in self.ends:
                maps.append(images)
        return tuple(maps)


def still_norms(module: nn.Module) -> None:
    """Keep the running statistics of the normalisations, also while training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


class _LiteBlock(nn.Module):
    """Inverted residual: expand, depthwise, project; a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden, 1, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv(hidden, outputs, 1, 1, activation=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    total = kernel - stride  # SAME padding for inputs that the stride divides
    layers: list[nn.Module] = []
    if stride == 1:
        layers.append(nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False))
    else:
        before, after = total // 2, total - total // 2
        layers.append(nn.ZeroPad2d((before, after, before, after)))
        layers.append(nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=1e-3))
    if activation:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


def convert_lite_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the published PyTorch port (`_blocks.3._bn1.weight`) to ours."""
    last = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks.")) + 1
    renamed = {}
    for name, tensor in state.items():
        head, *rest = name.split(".")
        if head == "_blocks":
            part, index, suffix = rest[1], int(rest[0]), rest[2]
            stage = {
                "_expand_conv": "expand",
                "_bn0": "expand",
                "_depthwise_conv": "depthwise",
                "_bn1": "depthwise",
                "_project_conv": "project",
                "_bn2": "project",
            }[part]
            place = f"features.{index + 1}.{stage}"
            # Strided convolutions stand behind their padding.
            padded = stage == "depthwise" and _block_stride(index) == 2
            number = (0 if part.endswith("conv") else 1) + padded
            renamed[f"{place}.{number}.{suffix}"] = tensor
        elif head == "_fc":
            renamed[f"classifier.{rest[0]}"] = tensor
        else:
            place, number = {
                "_conv_stem": ("features.0", 1),
                "_bn0": ("features.0", 2),
                "_conv_head": (f"features.{last}", 0),
                "_bn1": (f"features.{last}", 1),
            }[head]
            renamed[f"{place}.{number}.{rest[0]}"] = tensor
    return renamed


def _block_stride(index: int) -> int:
    """Return the stride of the `index`-th inverted residual."""
    strides = [s if i == 0 else 1 for _, _, n, s, _ in _LITE_STAGES for i in range(n)]
    return strides[index]
