"""Random shifts and mirror images of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def shifted(images: Tensor, most: int, generator: torch.Generator, border: str = "edge") -> Tensor:
    """Shift each image (N, C, H, W) by up to `most` pixels in both directions.

    `border` "edge" repeats the outermost pixels, "zero" fills with zeros (a random crop of the
    padded image).
    """
    count, _, height, width = images.shape
    offsets = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    if border == "zero":
        images, offsets = pad(images, (most,) * 4), offsets + most
    bottom, right = images.shape[2] - 1, images.shape[3] - 1
    rows = (torch.arange(height) + offsets[0]).clamp(0, bottom)
    columns = (torch.arange(width) + offsets[1]).clamp(0, right)
    sample = torch.arange(count)
    moved = images[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images (N, C, H, W), at random, from left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
