"""Generating MOTChallenge sequences that are hard in the ways that matter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
from PIL import Image

from ...core.errors import DataError
from ...core.files import write_bytes, write_text
from ...core.media import find_images
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .boxes import Array
from .check import difficulty, occlusion
from .config import SynthConfig
from .formats import Rows, make_rows, write_truth
from .painting import (
    Sprite,
    compose,
    cut_background,
    cut_sprites,
    paint_background,
    paint_person,
    place_sprite,
)
from .world import FPS, Path, camera, identities, simulate

MARGIN = 1.5  # size of a background, in frames
LEAST_VISIBLE = 0.1
INTERVALS = [1, 3, 6, 10, 15, 30]


@dataclass(frozen=True)
class Scene:
    """What a video shows: objects with their paths, sprites and identities, and the place."""

    background: Image.Image
    camera: Array
    paths: list[Path]
    sprites: list[Sprite]
    owner: list[Array]
    pillars: list[tuple[int, int, float]]
    twins: float


def make_scene(config: SynthConfig, video: int, sprites: list[Sprite], images: list[File]) -> Scene:
    """Draw a scene; it depends on the seed and the video's number alone."""
    random = np.random.default_rng((config.seed, video))
    width, height = config.width, config.height
    large = (round(MARGIN * width), round(MARGIN * height))
    background = (
        cut_background(images, random, *large) if images else paint_background(random, *large)
    )
    view = camera(random, config.frames, width)
    count = int(random.integers(min(3, config.objects), config.objects + 1))
    looks, twins = _looks(random, count, sprites)
    paths, owner, first = [], [], 1
    for look in looks:
        path = simulate(random, config.frames, width, height, look.aspect)
        path = _seen_by(path, view, width, height)
        inside = _inside(path.boxes, width, height)
        numbers = identities(inside, first, config.keep_ids)
        first = max(first, int(numbers.max()) + 1)
        paths.append(path)
        owner.append(numbers)
    pillars = [
        (
            int(random.uniform(0, large[0])),
            int(random.uniform(0.03, 0.08) * width),
            float(random.random()),
        )
        for _ in range(random.integers(0, 3))
    ]
    return Scene(background, view, paths, looks, owner, pillars, twins / count)


def _looks(
    random: np.random.Generator, count: int, sprites: list[Sprite]
) -> tuple[list[Sprite], int]:
    """Return a sprite per object and how many are twins: half of the groups share one look."""
    looks: list[Sprite] = []
    twins = 0
    while len(looks) < count:
        look = sprites[random.integers(len(sprites))] if sprites else paint_person(random)
        group = int(random.integers(2, 5)) if random.random() < 0.5 else 1
        group = min(group, count - len(looks))
        looks += [look] + [look.tinted(random.uniform(-4, 4)) for _ in range(group - 1)]
        twins += group if group > 1 else 0
    return looks, twins


def _seen_by(path: Path, view: Array, width: int, height: int) -> Path:
    """Move a path as a camera sees it: against its pan, scaled about the middle."""
    middle = np.array((width, height)) / 2
    zoom = view[:, 2:]
    centre = middle + (path.centre - middle - view[:, :2]) * zoom
    return Path(centre, path.height * zoom[:, 0], path.angle, path.flap, path.aspect, path.depth)


def _inside(boxes: Array, width: int, height: int) -> Array:
    right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    return (right > 1) & (bottom > 1) & (boxes[:, 0] < width - 1) & (boxes[:, 1] < height - 1)


def render(scene: Scene, config: SynthConfig, video: int) -> Iterator[tuple[Array, Rows]]:
    """Yield every frame, uint8 (H, W, 3), with its ground truth."""
    random = np.random.default_rng((config.seed, video, 1))
    width, height = config.width, config.height
    grain = random.normal(0, random.uniform(1, 5), (4, height, width, 1)).astype(np.float32)
    drift, speed = random.uniform(0, 0.12), random.uniform(0.1, 0.5)
    order = np.argsort([path.depth for path in scene.paths])
    for frame in range(config.frames):
        canvas = _view(scene.background, scene.camera[frame], width, height)
        empty = canvas.copy() if scene.pillars else canvas
        shown = [n for n in order if scene.owner[n][frame]]
        patches, depths = [], []
        for n in shown:
            path = scene.paths[n]
            moved = path.centre[frame] - path.centre[max(0, frame - 1)]
            patches.append(place_sprite(scene.sprites[n], path, frame, 0.5 * abs(moved[0])))
            depths.append(path.depth)
        kept = list(range(len(patches)))
        for x, w, depth in scene.pillars:
            patch = _pillar(empty, x - round(scene.camera[frame, 0]) - width // 4, w)
            place = int(np.searchsorted(depths, depth))
            if patch is not None:
                patches.insert(place, patch)
                depths.insert(place, depth)
                kept = [k + (k >= place) for k in kept]
        seen = compose(canvas, patches)[kept]
        light = 1 + drift * np.sin(2 * np.pi * speed * frame / FPS)
        pixels = np.clip(canvas * light + grain[frame % 4], 0, 255).astype(np.uint8)
        yield pixels, _truth(scene, shown, frame, seen)


def _view(background: Image.Image, view: Array, width: int, height: int) -> Array:
    """Cut what the camera sees out of the background."""
    x, y, zoom = view
    w, h = width / zoom, height / zoom
    left = np.clip(background.width / 2 - w / 2 + x, 0, background.width - w)
    top = np.clip(background.height / 2 - h / 2 + y, 0, background.height - h)
    box = (left, top, left + w, top + h)
    return np.asarray(background.resize((width, height), Image.Resampling.BILINEAR, box)).astype(
        np.float32
    )


def _pillar(empty: Array, left: int, width: int) -> tuple[Array, int, int] | None:
    """Return a strip of the empty place, as tall as the frame, that hides what is behind it."""
    begin, end = max(0, left), min(empty.shape[1], left + width)
    if end <= begin:
        return None
    strip = empty[:, begin:end]
    return np.concatenate((strip * 0.9, np.full_like(strip[..., :1], 255)), -1), begin, 0


def _truth(scene: Scene, shown: list[int], frame: int, seen: Array) -> Rows:
    boxes = np.array([scene.paths[n].boxes[frame] for n in shown]).reshape(-1, 4)
    owners = [scene.owner[n][frame] for n in shown]
    return make_rows(
        np.full(len(shown), frame + 1), owners, boxes, 1.0, 1, seen, seen >= LEAST_VISIBLE
    )


def synthesise(config: SynthConfig, progress: Progress | None = None) -> Result:
    """Write MOTChallenge sequences and tell how hard they are.

    Raises `DataError` when they exist already or a folder holds nothing to cut from.
    """
    progress = progress or Silent()
    names = [f"synth-{video + 1:04d}" for video in range(config.videos)]
    if not config.overwrite and any((config.out / name).exists() for name in names):
        raise DataError(
            f"{config.out} holds sequences already", "pass --overwrite, or another --out"
        )
    images = find_images(config.backgrounds) if config.backgrounds else []
    random = np.random.default_rng((config.seed, config.videos, 2))
    sprites = cut_sprites(config.sprites, random) if config.sprites else []
    rows, twins = [], []
    with progress.task("painting", config.videos * config.frames) as task:
        for video, name in enumerate(names):
            scene = make_scene(config, video, sprites, images)
            found = []
            for number, (pixels, truth) in enumerate(render(scene, config, video), 1):
                write_bytes(
                    config.out / name / "img1" / f"{number:06d}.jpg", _jpeg(pixels, config, video)
                )
                found.append(truth)
                task.advance()
            rows.append(write_sequence(config.out / name, name, config, found))
            twins.append(scene.twins)
    return _report(config, rows, twins)


def _jpeg(pixels: Array, config: SynthConfig, video: int) -> bytes:
    quality = config.quality or 40 + int(
        np.random.default_rng((config.seed, video, 3)).integers(51)
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_sequence(folder: File, name: str, config: SynthConfig, truths: list[Rows]) -> Rows:
    """Write gt.txt and seqinfo.ini beside the frames, and return the ground truth."""
    from .metrics import join

    rows = join(truths)
    write_bytes(folder / "gt" / "gt.txt", write_truth(rows))
    lines = {
        "name": name, "imDir": "img1", "frameRate": FPS, "seqLength": config.frames,
        "imWidth": config.width, "imHeight": config.height, "imExt": ".jpg",
    }  # fmt: skip
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    write_text(folder / "seqinfo.ini", f"[Sequence]\n{text}")
    return rows


def _report(config: SynthConfig, rows: list[Rows], twins: list[float]) -> Result:
    hard: dict[str, dict[str, float]] = {}
    for k in INTERVALS:
        parts = [difficulty(item.counted(), [k])[str(k)] for item in rows]
        pairs = sum(part["pairs"] for part in parts)
        means = {
            name: sum(part[name] * part["pairs"] for part in parts) / max(1, pairs)
            for name in ("mean_iou", "lost")
        }
        hard[str(k)] = {**means, "pairs": pairs}
    metrics: dict[str, Any] = {
        "videos": config.videos,
        "boxes": sum(len(item) for item in rows),
        "objects": sum(len(np.unique(item.identity)) for item in rows),
        "twins": float(np.mean(twins)),
        "occluded": float(np.mean([occlusion(item.counted()) for item in rows])),
        "difficulty": hard,
    }
    table = [(k, f"{d['mean_iou']:.3f}", f"{100 * d['lost']:.1f} %") for k, d in hard.items()]
    return Result(
        outputs={"folder": str(config.out)},
        metrics=metrics,
        tables=(
            Table("Boxes of one object, k frames apart", ("k", "mean IoU", "IoU below 0.2"), table),
        ),
        notes=(
            f"{config.videos} videos, {metrics['objects']} objects, {100 * metrics['twins']:.0f} % "
            f"twins, {100 * metrics['occluded']:.0f} % of boxes occluded",
            f"Next: mlkit train track {config.out}",
        ),
    )
