"""Sprites, backgrounds, and frames composed of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as File

import numpy as np
from PIL import Image

from ...core.errors import DataError
from ...core.media import find_images, read_image
from .boxes import Array
from .sequence import find_sequences
from .world import Path

SIDE = 96  # height of a sprite in its own pixels
MAX_SPRITES = 200


@dataclass(frozen=True)
class Sprite:
    """An object's look: RGBA picture."""

    picture: Image.Image

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.picture.width / self.picture.height

    def tinted(self, turn: float) -> Sprite:
        """Return the same sprite with its hue moved by `turn` (of 256)."""
        rgb = self.picture.convert("RGB").convert("HSV")
        hue, saturation, value = rgb.split()
        moved = Image.fromarray((np.asarray(hue).astype(int) + round(turn)).astype(np.uint8))
        rgb = Image.merge("HSV", (moved, saturation, value)).convert("RGB")
        rgb.putalpha(self.picture.getchannel("A"))
        return Sprite(rgb)


def _colour(random: np.random.Generator) -> Array:
    hsv = (random.random(), random.uniform(0.2, 0.9), random.uniform(0.25, 0.95))
    return 255 * np.array(colorsys.hsv_to_rgb(*hsv))


def paint_person(random: np.random.Generator) -> Sprite:
    """Return a painted figure: head, striped or plain top, trousers."""
    width = round(SIDE * random.uniform(0.34, 0.5))
    y, x = np.mgrid[0:SIDE, 0:width]
    v, u = y / SIDE, (x - width / 2 + 0.5) / width
    top, trousers, skin = (_colour(random) for _ in range(3))
    waist = random.uniform(0.5, 0.62)
    stripes = np.sin(2 * np.pi * v * random.integers(4, 16)) > random.uniform(-1, 1.5)
    body = np.where((v < waist)[..., None], top, trousers)
    body = np.where((stripes & (v < waist))[..., None], _colour(random), body)
    body = np.where((v < 0.17)[..., None], skin, body)
    head = ((u / 0.22) ** 2 + ((v - 0.09) / 0.09) ** 2) < 1
    torso = (np.abs(u) < 0.42 - 0.12 * np.abs(v - 0.35)) & (v >= 0.17) & (v < waist)
    legs = (np.abs(np.abs(u) - 0.17) < 0.15) & (v >= waist)
    shade = 0.8 + 0.4 * random.random((SIDE, 1, 1)) * (0.5 + u)[..., None]
    return _sprite(body * shade, head | torso | legs)


def _sprite(colours: Array, shape: Array) -> Sprite:
    alpha = Image.fromarray((255 * shape).astype(np.uint8))
    # Softer edges: half a pixel of the picture it will be scaled to.
    alpha = alpha.resize((alpha.width // 2, alpha.height // 2)).resize(alpha.size)
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).convert("RGB")
    picture.putalpha(alpha)
    return Sprite(picture)


def cut_sprites(source: File, random: np.random.Generator) -> list[Sprite]:
    """Cut sprites out of MOTChallenge sequences (their boxes) or images (random blobs)."""
    if any(any(source.glob(pattern)) for pattern in ("gt/gt.txt", "*/gt/gt.txt")):
        return _cut_people(source, random)
    paths = find_images(source)
    chosen = random.permutation(len(paths))[:MAX_SPRITES]
    return [_cut_blob(read_image(paths[i]), random) for i in chosen]


def _cut_people(source: File, random: np.random.Generator) -> list[Sprite]:
    """Cut the most visible boxes out, one of each object, with a soft elliptic edge."""
    found = []
    for info in find_sequences(source):
        rows = info.truth().counted()
        rows = rows[(rows.visibility > 0.9) & (rows.boxes[:, 3] > 24)]
        for identity in np.unique(rows.identity):
            track = rows[rows.identity == identity]
            row = track[int(random.integers(len(track)))]
            image = Image.fromarray(next(info.read([info.index(int(row.frame))])))
            left, top, width, height = row.boxes.tolist()
            box = (round(left), round(top), round(left + width), round(top + height))
            patch = np.asarray(image.crop(box).resize((max(8, round(SIDE * width / height)), SIDE)))
            v, u = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : patch.shape[1] * 1j]
            found.append(_sprite(patch.astype(float), np.abs(u) ** 2.5 + np.abs(v) ** 4 < 0.95))
    if not found:
        raise DataError(f"{source} holds no object that is visible and tall enough")
    return [found[i] for i in random.permutation(len(found))[:MAX_SPRITES]]


def _cut_blob(image: Image.Image, random: np.random.Generator) -> Sprite:
    width = round(SIDE * random.uniform(0.4, 1.0))
    share = random.uniform(0.5, 1.0)
    w, h = min(image.width, image.height * width / SIDE) * share, 0.0
    h = w * SIDE / width
    left, top = random.uniform(0, image.width - w), random.uniform(0, max(0, image.height - h))
    patch = np.asarray(
        image.resize((width, SIDE), box=(left, top, left + w, min(image.height, top + h)))
    )
    v, u = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : width * 1j]
    angle = np.arctan2(v, u)
    edge = 0.85 + sum(
        random.uniform(0, 0.07) * np.cos(k * angle + random.uniform(0, 6)) for k in (2, 3, 5)
    )
    return _sprite(patch.astype(float), np.hypot(u, v) < edge)


def paint_background(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a painted place: soft colours, a ground, and boxes of walls."""
    coarse = random.uniform(60, 190, (4, 6, 3)).astype(np.uint8)
    image = np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    ).astype(float)
    for _ in range(random.integers(4, 14)):
        left, top = random.uniform(0, width), random.uniform(0, 0.7 * height)
        w, h = random.uniform(0.04, 0.3) * width, random.uniform(0.05, 0.5) * height
        part = image[int(top) : int(top + h), int(left) : int(left + w)]
        part[:] = 0.4 * part + 0.6 * _colour(random)
    texture = np.asarray(
        Image.fromarray(random.uniform(0, 255, (height // 3, width // 3)).astype(np.uint8)).resize(
            (width, height)
        )
    )
    image = np.clip(image + (texture[..., None] - 127) * 0.15, 0, 255)
    return Image.fromarray(image.astype(np.uint8))


def cut_background(
    images: Sequence[File], random: np.random.Generator, width: int, height: int
) -> Image.Image:
    """Cut a part of a random image, with the aspect of the frame."""
    image = read_image(images[int(random.integers(len(images)))])
    scale = min(image.width / width, image.height / height) * random.uniform(0.6, 1)
    w, h = width * scale, height * scale
    left, top = random.uniform(0, image.width - w), random.uniform(0, image.height - h)
    return image.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))


def place_sprite(sprite: Sprite, path: Path, frame: int, blur: float) -> tuple[Array, int, int]:
    """Return RGBA float32 (h, w, 4) of an object in a frame, and where its corner is.

    `blur` is its motion in pixels: the picture is spread along the horizontal by that much.
    """
    left, top, width, height = path.boxes[frame]
    w, h = max(3, round(width)), max(4, round(height))
    picture = sprite.picture.resize((w, h), Image.Resampling.BILINEAR, reducing_gap=2)
    if abs(path.angle[frame]) > 1:
        picture = picture.rotate(float(path.angle[frame]), Image.Resampling.BILINEAR)
    patch: Array = np.asarray(picture).astype(np.float32)
    swing = round(0.08 * w * path.flap[frame])
    if swing:  # the lower half swings against the upper one
        patch = np.concatenate((patch[: h // 2], np.roll(patch[h // 2 :], swing, 1)))
    spread = int(min(blur, w) / 2)
    if spread >= 1:
        patch = (patch + np.roll(patch, spread, 1) + np.roll(patch, -spread, 1)) / 3
    return patch, round(left), round(top)


def compose(canvas: Array, patches: Sequence[tuple[Array, int, int]]) -> Array:
    """Draw patches (far ones first) onto a canvas float32 (H, W, 3), in place.

    Returns the share of each patch that can be seen, (n,): the light that passes what stands in
    front, inside the image.
    """
    height, width = canvas.shape[:2]
    seen = np.zeros(len(patches))
    windows: list[tuple[slice, slice, Array] | None] = []
    for patch, left, top in patches:
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(width, left + patch.shape[1]), min(height, top + patch.shape[0])
        if x1 <= x0 or y1 <= y0:
            windows.append(None)
            continue
        part = patch[y0 - top : y1 - top, x0 - left : x1 - left]
        alpha = part[..., 3:] / 255
        area = canvas[y0:y1, x0:x1]
        area += alpha * (part[..., :3] - area)
        windows.append((slice(y0, y1), slice(x0, x1), alpha[..., 0]))
    light = np.ones((height, width), dtype=np.float32)
    for number in range(len(patches) - 1, -1, -1):
        window = windows[number]
        if window is None:
            continue
        rows, columns, alpha = window
        total = float(patches[number][0][..., 3].sum()) / 255
        seen[number] = float((light[rows, columns] * alpha).sum()) / max(total, 1e-6)
        light[rows, columns] *= 1 - alpha
    return seen
