"""Videos made to order: a picture that moves, grows, turns and is lit before a drifting scene.

What the picture shows lasts through the video; how it moves does not follow from any frame.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...core.arrays import write_array
from ...core.errors import UsageError
from ...core.files import check_writable, write_text
from ...core.labelled import scan_classes
from ...core.media import read_image
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import stream
from ...core.video import writing_video
from .config import SpritesConfig

SHAPES = ("circle", "cross", "ring", "square", "triangle")
MOTIONS = ("left", "right", "up", "down", "circle", "zigzag")
SPRITE = 32
FPS = 25.0


def make_sprites(config: SpritesConfig, progress: Progress | None = None) -> Result:
    """Write videos and labels.csv (path, label, motion).

    Raises `DataError` for unusable pictures or when there are files already.
    """
    progress = progress or Silent()
    table = config.out / "labels.csv"
    check_writable(table, config.overwrite)
    pictures, labels, classes = _pictures(config)
    if config.container == "mp4" and config.side % 2:
        raise UsageError(f"--side {config.side}: MP4 needs an even one")
    rows = []
    with progress.task("drawing videos", config.videos) as task:
        for number in range(config.videos):
            generator = stream(config.seed, 1, number)
            place = int(torch.randint(len(pictures), (1,), generator=generator))
            motion = int(torch.randint(len(MOTIONS), (1,), generator=generator))
            frames = animate(pictures[place], motion, config.length, config.side, generator)
            name = f"{number:05d}.{config.container}"
            _write(config.out / "videos" / name, frames)
            rows.append((f"videos/{name}", classes[labels[place]], MOTIONS[motion]))
            task.advance(1)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("path", "label", "motion"), *rows])
    write_text(table, buffer.getvalue())
    return Result(
        inputs={"images": "drawn shapes" if config.images is None else str(config.images)},
        outputs={"labels": str(table), "videos": str(config.out / "videos")},
        metrics={"videos": len(rows), "classes": list(classes), "motions": list(MOTIONS)},
        notes=(f"Next: mlkit pretrain {table} -o runs/sprites",),
    )


def _pictures(config: SpritesConfig) -> tuple[Tensor, list[int], Sequence[str]]:
    """Return pictures (N, 4, 32, 32) in [0, 1] with alpha, their class numbers, class names."""
    if config.images is None:
        drawn = [draw(name, stream(config.seed, 0, i)) for i in range(8) for name in SHAPES]
        return torch.stack(drawn), list(range(len(SHAPES))) * 8, SHAPES
    found = scan_classes(config.images)
    # As many as there are videos suffice; spread over the classes as they come.
    chosen = torch.randperm(len(found.paths), generator=stream(config.seed, 0))[: config.videos]
    pictures = []
    for place in chosen.tolist():
        image = read_image(found.paths[place]).resize((SPRITE, SPRITE))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pictures.append(torch.cat((pixels, torch.ones(1, SPRITE, SPRITE))))
    return torch.stack(pictures), [found.labels[i] for i in chosen.tolist()], found.classes


def draw(name: str, generator: torch.Generator) -> Tensor:
    """Return a coloured shape (4, 32, 32) with alpha."""
    axis = torch.linspace(-1, 1, SPRITE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    inside = {
        "circle": radius < 0.8,
        "ring": (radius < 0.9) & (radius > 0.5),
        "square": torch.maximum(x.abs(), y.abs()) < 0.7,
        "triangle": (y < 0.7) & (y > 2 * x.abs() - 0.8),
        "cross": torch.minimum(x.abs(), y.abs()) < 0.25,
    }[name]
    colour = 0.3 + 0.7 * torch.rand(3, 1, 1, generator=generator)
    return torch.cat((colour.expand(3, SPRITE, SPRITE), inside[None].float()))


def animate(
    picture: Tensor, motion: int, length: int, side: int, generator: torch.Generator
) -> NDArray[np.uint8]:
    """Return a video (T, side, side, 3) of a picture (4, s, s) that follows a motion program."""
    time = torch.linspace(0, 1, length)
    y, x = _path(motion, time, generator)
    draws = torch.rand(8, generator=generator)
    size = 0.45 + 0.15 * draws[0] + 0.12 * torch.sin(6.3 * (time * (0.5 + draws[1]) + draws[2]))
    angle = 1.2 * (draws[3] - 0.5) + 0.8 * (draws[4] - 0.5) * time
    light = 0.75 + 0.35 * torch.sin(6.3 * (time * (0.4 + draws[5]) + draws[6]))
    scene = _scene(length, side, generator)
    cos, sin = angle.cos() / size, angle.sin() / size
    matrix = torch.stack((cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y), 1).view(
        -1, 2, 3
    )
    grid = F.affine_grid(matrix, [length, 4, side, side], align_corners=False)
    sprite = F.grid_sample(picture.expand(length, -1, -1, -1), grid, align_corners=False)
    alpha = sprite[:, 3:] * _occluder(length, side, generator)
    frames = torch.lerp(scene, sprite[:, :3] * light.view(-1, 1, 1, 1), alpha)
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _path(motion: int, time: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the places (y, x) of the picture's middle, in [-1, 1]."""
    off, start = (0.8 * (torch.rand(2, generator=generator) - 0.5)).tolist()
    run = 1.1 * (time - 0.5)
    turn = 6.3 * (time + start)
    still = torch.zeros_like(time)
    wave = 0.35 * torch.sign(torch.sin(4 * turn)) * (1 - torch.cos(4 * turn)) / 2
    return {
        "left": (still + off, -run),
        "right": (still + off, run),
        "up": (-run, still + off),
        "down": (run, still + off),
        "circle": (0.45 * turn.sin(), 0.45 * turn.cos()),
        "zigzag": (wave, run),
    }[MOTIONS[motion]]


def _scene(length: int, side: int, generator: torch.Generator) -> Tensor:
    """Return a scene (T, 3, side, side) of soft random colours that drifts behind a window."""
    layers = []
    for cells in (4, 9, 20):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        layers.append(F.interpolate(noise, 2 * side, mode="bicubic", align_corners=False)[0])
    wide = (0.55 * layers[0] + 0.3 * layers[1] + 0.15 * layers[2]).clamp(0, 1)
    begin, end = (torch.rand(2, 2, generator=generator) * side).tolist()
    frames = []
    for part in torch.linspace(0, 1, length).tolist():
        top, left = (round(a + part * (b - a)) for a, b in zip(begin, end, strict=True))
        frames.append(wide[:, top : top + side, left : left + side])
    return torch.stack(frames)


def _occluder(length: int, side: int, generator: torch.Generator) -> Tensor:
    """Return (T, 1, side, side): 0 where a bar, which crosses half of the videos, hides all."""
    begin, speed, here = torch.rand(3, generator=generator).tolist()
    if here < 0.5:
        return torch.ones(length, 1, side, side)
    column = torch.arange(side).view(1, 1, 1, side).expand(length, 1, side, side)
    centre = ((begin + (speed - 0.5) * torch.linspace(0, 1, length)) * side).view(-1, 1, 1, 1)
    return ((column - centre).abs() > side / 12).float()


def _write(path: Path, frames: NDArray[np.uint8]) -> None:
    if path.suffix == ".npy":
        write_array(path, frames)
        return
    with writing_video(path, FPS) as writer:
        for frame in frames:
            writer.add(frame)
