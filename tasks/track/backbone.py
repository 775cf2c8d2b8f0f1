"""From images to feature levels of one width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.inputs import InputSpec
from ...core.networks import LiteFeatures, still_norms
from ...core.zoo import fill_backbone, input_spec
from .deformable import Shapes
from .geometry import embed_grid


class Levels(NamedTuple):
    """Feature levels as one row of tokens.

    `tokens` and `positions` (B, N, d); `shapes` the (h, w) of each level; `padding` (B, N) bool
    or None; `extent` (B, L, 2) the share (width, height) of each map that is no padding.
    """

    tokens: Tensor
    positions: Tensor
    shapes: Shapes
    padding: Tensor | None
    extent: Tensor


class ConvNet(nn.Sequential):
    """A small network without batch statistics: strides 2, 4, 8, 16, GroupNorm, for CPUs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        for i, (before, after) in enumerate(pairwise(channels)):
            block = nn.Sequential(
                nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False, groups=1 if i > 1 else after),
                nn.GroupNorm(8, after), nn.ReLU(),
            )  # fmt: skip
            self.add_module(f"layer{i + 1}", block)
        self.widths = channels[3:]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps at strides 8 and 16."""
        maps = []
        for block in self:
            images = block(images)
            maps.append(images)
        return maps[2:]


class ResNet(nn.Module):
    """A torchvision ResNet whose batch statistics never change; strides 8, 16, 32."""

    def __init__(self, name: str, levels: int) -> None:
        from torchvision.models import get_model
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__()
        kept = {f"layer{stage + 2}": str(stage) for stage in range(min(levels, 3))}
        net = get_model(name, weights=None, norm_layer=FrozenBatchNorm2d)
        self.body = IntermediateLayerGetter(net, kept)
        widths = (512, 1024, 2048) if name == "resnet50" else (128, 256, 512)
        self.widths = widths[: len(kept)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of stages 3 to 5 (conv3_x, conv4_x, conv5_x)."""
        return list(self.body(images).values())


class Lite(LiteFeatures):
    """EfficientNet-Lite0 whose batch statistics never change."""

    def train(self, mode: bool = True) -> Lite:
        """Set the mode of everything but the normalisations."""
        super().train(mode)
        still_norms(self)
        return self


def make_backbone(name: str, levels: int, width: int) -> ConvNet | ResNet | Lite:
    """Return the untrained features network; `width` is conv's alone."""
    if name == "conv":
        return ConvNet(width)
    return Lite(min(levels, 3)) if name == "efficientnet_lite0" else ResNet(name, levels)


def load_pretrained(backbone: nn.Module, name: str, weights: Path | None) -> None:
    """Fill a backbone with the weights of an ImageNet classifier: a file, or its usual ones."""
    prefix = "" if name == "efficientnet_lite0" else "body."
    fill_backbone(backbone, name, weights, lambda key: prefix + key)


class Pyramid(nn.Module):
    """Backbone, projections to one width, position and level embeddings."""

    def __init__(self, backbone: str, dim: int, levels: int, width: int = 16) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, levels, width)
        projections: list[nn.Module] = []
        before = self.backbone.widths
        for level in range(levels):
            if level < len(before):
                layer = nn.Conv2d(before[level], dim, 1)
            else:  # further levels halve the one before
                layer = nn.Conv2d(before[-1] if level == len(before) else dim, dim, 3, 2, 1)
            projections.append(nn.Sequential(layer, nn.GroupNorm(32, dim)))
        self.input_proj = nn.ModuleList(projections)
        self.level_embed = nn.Parameter(torch.randn(levels, dim))
        self.spec = InputSpec() if backbone == "conv" else input_spec(backbone)

    def see(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's maps (B, C, h, w) of images (B, 3, H, W) in [0, 1]."""
        return list(self.backbone(self.spec.normalise(images)))

    def forward(self, maps: Sequence[Tensor], extent: Tensor | None = None) -> Levels:
        """Return the levels of the maps that `see` gives.

        `extent` (B, 2): the share (width, height) of each image that is no padding (None: all).
        """
        planes: list[Tensor] = []
        for level, project in enumerate(self.input_proj):
            first_extra = level == len(maps)
            source = maps[level] if level < len(maps) else maps[-1] if first_extra else planes[-1]
            planes.append(project(source))
        full = planes[0].new_ones(len(planes[0]), 2)
        share = full if extent is None else extent
        dim = planes[0].shape[1]
        shapes = [(plane.shape[2], plane.shape[3]) for plane in planes]
        positions = [
            embed_grid(*shape, dim, share) + embed
            for shape, embed in zip(shapes, self.level_embed, strict=True)
        ]
        tokens = torch.cat([plane.flatten(2).transpose(1, 2) for plane in planes], dim=1)
        padding = None if extent is None else _padding(shapes, extent)
        valid = torch.stack([_valid(shape, share) for shape in shapes], dim=1)
        return Levels(tokens, torch.cat(positions, dim=1), shapes, padding, valid)


def _valid(shape: tuple[int, int], extent: Tensor) -> Tensor:
    """Return the share (B, 2) of a map's columns and rows that hold something."""
    size = extent.new_tensor((shape[1], shape[0]))
    return (extent * size).round().clamp_min(1) / size


def _padding(shapes: Shapes, extent: Tensor) -> Tensor:
    masks = []
    for height, width in shapes:
        valid = _valid((height, width), extent) * extent.new_tensor((width, height))
        columns = torch.arange(width, device=extent.device) >= valid[:, :1]
        rows = torch.arange(height, device=extent.device) >= valid[:, 1:]
        masks.append((rows[:, :, None] | columns[:, None]).flatten(1))
    return torch.cat(masks, dim=1)
