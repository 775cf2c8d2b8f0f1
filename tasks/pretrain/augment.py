"""Random changes of clips: every clip has its own, all frames of a clip share them.

Clips are (N, T, 3, S, S) float in [0, 1]; factors are (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import AugmentOptions

GREY = (0.299, 0.587, 0.114)
MEAN, STD = 0.45, 0.225
SIDE, SIGMAS = 224, (0.1, 2.0)  # of blurs, in pixels of clips of that side; smaller ones get less
JITTER = 0.8  # share of clips whose colours change
ASPECTS = (3 / 4, 4 / 3)


def normalise(clips: Tensor) -> Tensor:
    """Return what networks take: (x - 0.45) / 0.225."""
    return (clips - MEAN) / STD


def draw_box(
    height: int, width: int, area: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Return a random box (top, left, height, width) inside a picture.

    Its share of the area is uniform, its aspect log-uniform in [3/4, 4/3]; when none of ten
    draws fits, the largest middle box of a fitting aspect is taken. An area of exactly 1 is the
    whole picture.
    """
    if area[0] == 1:
        return 0, 0, height, width
    for _ in range(10):
        part, shape, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        surface = height * width * (area[0] + part * (area[1] - area[0]))
        aspect = math.exp(math.log(ASPECTS[0]) + shape * math.log(ASPECTS[1] / ASPECTS[0]))
        w, h = round(math.sqrt(surface * aspect)), round(math.sqrt(surface / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w = min(width, round(height * ASPECTS[1]))
    h = min(height, round(width / ASPECTS[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def draw_place(
    height: int, width: int, squash: bool, area: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Return a random box; with `squash` its aspect is that of the picture pressed square."""
    if not squash:
        return draw_box(height, width, area, generator)
    side = max(height, width)
    top, left, h, w = draw_box(side, side, area, generator)
    rows, columns = height / side, width / side
    h, w = max(1, round(h * rows)), max(1, round(w * columns))
    return min(int(top * rows), height - h), min(int(left * columns), width - w), h, w


def resized(frames: Tensor, size: int) -> Tensor:
    """Return uint8 frames (T, H, W, 3) as floats (T, 3, size, size) in [0, 1], bilinear."""
    planes = frames.permute(0, 3, 1, 2).float() / 255
    if planes.shape[-2:] == (size, size):
        return planes
    return F.interpolate(planes, (size, size), mode="bilinear", align_corners=False)


def augment(clips: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Return clips with changed colours, some grey, blurred or mirrored (values in [0, 1])."""
    count = len(clips)
    low, high = (sigma * clips.shape[-1] / SIDE for sigma in SIGMAS)

    def chosen(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).nonzero()[:, 0]

    clips = clips.clone()
    for share, change in (
        (JITTER if options.colour else 0.0, lambda x: jitter(x, options.colour, generator)),
        (options.grey, grey),
        (options.blur, lambda x: blurred(x, _between(low, high, len(x), generator))),
        (options.difference, differences),
        (0.5 if options.flip else 0.0, lambda x: x.flip(4)),
    ):
        places = chosen(share)
        if len(places):
            clips[places] = change(clips[places])
    return clips


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def jitter(clips: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to `strength`, hue by a quarter of it.

    Factors are drawn per clip, the order of the four once for all clips of a call.
    """
    count = len(clips)
    low, high = max(0.0, 1 - strength), 1 + strength
    steps: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = [
        (brightness, _between(low, high, count, generator)),
        (contrast, _between(low, high, count, generator)),
        (saturation, _between(low, high, count, generator)),
        (hue, _between(-strength / 4, strength / 4, count, generator)),
    ]
    for place in torch.randperm(4, generator=generator).tolist():
        change, factors = steps[place]
        clips = change(clips, factors)
    return clips


def _each(factors: Tensor) -> Tensor:
    return factors.view(-1, 1, 1, 1, 1)


def grey(clips: Tensor) -> Tensor:
    """Return the luma of each pixel in all three channels."""
    weights = torch.tensor(GREY, dtype=clips.dtype)
    return torch.einsum("ntchw,c->nthw", clips, weights)[:, :, None].expand_as(clips)


def brightness(clips: Tensor, factors: Tensor) -> Tensor:
    """Scale all values."""
    return (clips * _each(factors)).clamp(0, 1)


def contrast(clips: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the clip's mean luma."""
    mean = grey(clips)[:, :, 0].mean((1, 2, 3)).view(-1, 1, 1, 1, 1)
    return torch.lerp(mean.expand_as(clips), clips, _each(factors)).clamp(0, 1)


def saturation(clips: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from grey."""
    return torch.lerp(grey(clips), clips, _each(factors)).clamp(0, 1)


def hue(clips: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour circle by so many full turns (hue of HSV)."""
    red, green, blue = clips.unbind(2)
    most, least = clips.amax(2), clips.amin(2)
    chroma = (most - least).clamp_min(1e-12)
    angle = torch.where(
        most == red,
        (green - blue) / chroma,
        torch.where(most == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    angle = (angle + 6 * turns.view(-1, 1, 1, 1)) % 6
    # The value of a channel n falls from `most` by the chroma, as a trapezium over the circle.
    shifts = torch.tensor((5.0, 3.0, 1.0), dtype=clips.dtype).view(1, 1, 3, 1, 1)
    k = (shifts + angle[:, :, None]) % 6
    return most[:, :, None] - (most - least)[:, :, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def blurred(clips: Tensor, sigmas: Tensor) -> Tensor:
    """Return clips under a Gaussian of `sigmas` (N,) pixels, edges reflected.

    All are cut at three of the largest.
    """
    _, frames, channels, height, width = clips.shape
    radius = min(math.ceil(3 * float(sigmas.max())), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=clips.dtype)
    weights = torch.exp(-offsets.square() / (2 * sigmas[:, None].square()))
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(frames * channels, 0)
    planes = F.pad(clips.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    rows = F.conv2d(planes, weights[:, None, None, :], groups=len(weights))
    return F.conv2d(rows, weights[:, None, :, None], groups=len(weights)).view_as(clips)


def differences(clips: Tensor) -> Tensor:
    """Return the change from each frame to the next around grey; the last one is repeated."""
    change = clips[:, 1:] - clips[:, :-1]
    if change.shape[1] == 0:
        return clips
    return ((torch.cat((change, change[:, -1:]), 1) + 1) / 2).clamp(0, 1)
