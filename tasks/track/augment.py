"""Changes of whole clips: geometry alike in all frames, colours in each frame on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .geometry import corners
from .losses import Truth

GREY = 114 / 255  # what shows where no image is
LEAST_SIDE = 0.004  # boxes smaller than this part of the image are dropped
LEAST_SEEN = 0.1  # and those with less of their area inside


class Transformed(NamedTuple):
    """A clip being prepared: `images` (L, 3, H, W) in [0, 1] and the objects of each frame."""

    images: Tensor
    truths: list[Truth]

    def mirrored(self) -> Transformed:
        """Return the clip as in a mirror."""
        scale, shift = torch.tensor((-1.0, 1, 1, 1)), torch.tensor((1.0, 0, 0, 0))
        truths = [t._replace(boxes=t.boxes * scale + shift) for t in self.truths]
        return Transformed(self.images.flip(3), truths)


def augment(clip: Transformed, generator: torch.Generator, *, full: bool) -> Transformed:
    """Mirror half of the clips; `full` also rotates (10 degrees), scales (0.5 to 1.5), shears
    (2 degrees), shifts (0.1) and changes the colours of every frame."""
    if float(torch.rand(1, generator=generator)) < 0.5:
        clip = clip.mirrored()
    if not full:
        return clip
    values = 2 * torch.rand(6, generator=generator) - 1
    matrix = _matrix(values, clip.images.shape[3] / clip.images.shape[2])
    return recolour(warp(clip, matrix), generator)


def _matrix(values: Tensor, aspect: float) -> Tensor:
    """Return an affine map (2, 3) of relative coordinates about the centre, from 6 values in
    [-1, 1]."""
    turn, scale, shear_x, shear_y, dx, dy = values.tolist()
    angle, size = math.radians(10 * turn), 1 + 0.5 * scale
    rotation = torch.tensor(
        ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    )
    lean = torch.tensor(
        ((1.0, math.tan(math.radians(2 * shear_x))), (math.tan(math.radians(2 * shear_y)), 1.0))
    )
    squeeze = torch.diag(torch.tensor((1.0, aspect)))  # relative units are not square
    linear = squeeze @ (size * rotation @ lean) @ torch.inverse(squeeze)
    centre = torch.full((2,), 0.5)
    shift = centre - linear @ centre + 0.1 * torch.tensor((dx, dy))
    return torch.cat((linear, shift[:, None]), dim=1)


def warp(clip: Transformed, matrix: Tensor) -> Transformed:
    """Move a clip by an affine map (2, 3) of relative coordinates; boxes enclose their corners."""
    whole = torch.cat((matrix, torch.tensor([[0.0, 0.0, 1.0]])))
    to_grid = torch.tensor(((2.0, 0.0, -1.0), (0.0, 2.0, -1.0), (0.0, 0.0, 1.0)))
    back = to_grid @ torch.inverse(whole) @ torch.inverse(to_grid)
    count = len(clip.images)
    grid = F.affine_grid(back[:2].expand(count, 2, 3), list(clip.images.shape), align_corners=False)
    moved = F.grid_sample(clip.images - GREY, grid, "bilinear", "zeros", align_corners=False)
    return Transformed(moved + GREY, [_warp_boxes(truth, matrix) for truth in clip.truths])


def _warp_boxes(truth: Truth, matrix: Tensor) -> Truth:
    left, top, right, bottom = corners(truth.boxes).unbind(1)
    points = torch.stack((
        torch.stack((left, left, right, right), 1), torch.stack((top, bottom, top, bottom), 1)
    ), dim=-1)  # fmt: skip
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    low, high = moved.amin(1), moved.amax(1)
    return visible(truth._replace(boxes=torch.cat(((low + high) / 2, high - low), dim=1)))


def visible(truth: Truth) -> Truth:
    """Drop objects of which next to nothing is left in the image; the others are not clipped."""
    box = corners(truth.boxes)
    inside = (box[:, 2:].clamp(0, 1) - box[:, :2].clamp(0, 1)).clamp_min(0).prod(1)
    area = truth.boxes[:, 2:].prod(1)
    kept = (inside > LEAST_SEEN * area) & (truth.boxes[:, 2:].amin(1) > LEAST_SIDE)
    return Truth(*(values[kept] for values in truth))


def recolour(clip: Transformed, generator: torch.Generator) -> Transformed:
    """Change brightness (32 / 255), contrast and saturation (0.5 to 1.5) and hue of each frame."""
    count = len(clip.images)
    change = 2 * torch.rand(4, count, 1, 1, 1, generator=generator) - 1
    images = clip.images * (1 + 0.5 * change[0]) + change[1] * 32 / 255
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + 0.5 * change[2])
    # A hue shift is a rotation of the colour about the grey axis (18 of 180 steps: 36 degrees).
    angle = (change[3, :, 0, 0, 0] * math.radians(36))[:, None, None]
    third, root = 1 / 3, math.sqrt(1 / 3)
    cross = torch.tensor(((0.0, -root, root), (root, 0.0, -root), (-root, root, 0.0)))
    turn = angle.cos() * torch.eye(3) + (1 - angle.cos()) * third + angle.sin() * cross
    return clip._replace(images=torch.einsum("lij,ljhw->lihw", turn, images).clamp(0, 1))


def mosaic(clips: Sequence[Transformed], generator: torch.Generator) -> Transformed:
    """Put four clips of one length into the quarters of a picture of the first one's size."""
    length, _, height, width = clips[0].images.shape
    images = torch.full_like(clips[0].images, GREY)
    split = 0.25 + 0.5 * torch.rand(2, generator=generator)
    x, y = round(float(split[0]) * width), round(float(split[1]) * height)
    fields = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    parts: list[list[Truth]] = [[] for _ in range(length)]
    for clip, (left, top, right, bottom) in zip(clips, fields, strict=True):
        size = (bottom - top, right - left)
        images[:, :, top:bottom, left:right] = F.interpolate(clip.images, size, mode="bilinear")
        share = torch.tensor((size[1] / width, size[0] / height))
        corner = torch.tensor((left / width, top / height, 0.0, 0.0))
        for place, truth in enumerate(clip.truths):
            boxes = visible(truth).boxes * torch.cat((share, share)) + corner
            parts[place].append(visible(truth)._replace(boxes=boxes))
    return Transformed(images, [_joined(truths) for truths in parts])


def mixup(clip: Transformed, other: Transformed) -> Transformed:
    """Lay another clip over this one, half transparent; the objects of both count."""
    size = (clip.images.shape[2], clip.images.shape[3])
    over = F.interpolate(other.images, size, mode="bilinear")
    images = 0.5 * clip.images + 0.5 * over
    pairs = zip(clip.truths, other.truths, strict=True)
    return Transformed(images, [_joined(pair) for pair in pairs])


def _joined(truths: Sequence[Truth]) -> Truth:
    """Return the objects of all; one identity that occurs twice becomes two."""
    parts = [torch.cat(values) for values in zip(*truths, strict=True)]
    owner = torch.arange(len(truths)).repeat_interleave(
        torch.tensor([len(t.boxes) for t in truths])
    )
    return Truth(parts[0], parts[1], parts[2] * len(truths) + owner)
