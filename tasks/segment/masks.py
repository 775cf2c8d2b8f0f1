"""Masks as files say them: PNG, COCO's run lengths, polygons; and the square a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageDraw

from ...core.errors import DataError
from ...core.media import read_image

Mask = NDArray[np.bool_]
FARTHEST = 1e6  # pixels that a corner may lie from the photograph's own


@dataclass(frozen=True)
class MaskFile:
    """A mask image of the photograph's size: `value` is the object, or whatever is not 0."""

    path: Path
    value: int | None = None


@dataclass(frozen=True)
class Runs:
    """COCO's run lengths: columns from top to bottom, zeros first; `size` is (height, width)."""

    counts: tuple[int, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Polygons:
    """Outlines (x1, y1, x2, y2, ...) in pixels, or in shares of the sides (`relative`)."""

    outlines: tuple[tuple[float, ...], ...]
    relative: bool = False


AnyMask = MaskFile | Runs | Polygons


def rasterise(mask: AnyMask, size: tuple[int, int], name: str) -> Mask:
    """Return a mask as booleans of `size` (height, width). `name` is what errors call it.

    Raises `DataError` when its size is another, or nothing is inside.
    """
    if isinstance(mask, MaskFile):
        name, found = str(mask.path), read_mask(mask)
    elif isinstance(mask, Runs):
        found = decode_runs(mask)
    else:
        found = fill(mask, size)
    if found.shape != size:
        (h, w), (height, width) = found.shape, size
        raise DataError(f"{name}: the mask is {w} x {h}, its image {width} x {height}")
    if not found.any():
        raise DataError(f"{name}: the mask is empty", "use null where nothing is meant")
    return found


def read_mask(mask: MaskFile) -> Mask:
    """Return what a mask image marks, as booleans (H, W)."""
    levels = read_levels(mask.path)
    return levels != 0 if mask.value is None else levels == mask.value


def read_levels(path: Path) -> NDArray[Any]:
    """Return the values of a mask image (H, W): palette numbers, 8 or 16 bit grey."""
    try:
        with pillow.open(path) as image:
            if image.mode in ("P", "L", "I;16", "I", "1"):
                return np.array(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError):
        pass  # read_image says what is wrong
    return np.array(read_image(path, "L")).astype(np.int64)


def fill(mask: Polygons, size: tuple[int, int]) -> Mask:
    """Return the pixels inside polygons."""
    height, width = size
    canvas = pillow.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    scale = (width, height) if mask.relative else (1, 1)
    for outline in mask.outlines:
        corners = [
            (x * scale[0], y * scale[1]) for x, y in zip(outline[::2], outline[1::2], strict=True)
        ]
        if len(corners) > 1:
            draw.polygon(corners, fill=1)
    return np.array(canvas)


def decode_runs(runs: Runs) -> Mask:
    """Return the mask of run lengths."""
    values = np.arange(len(runs.counts)) % 2 == 1
    return np.repeat(values, runs.counts).reshape(runs.size[::-1]).T


def encode_runs(mask: Mask) -> Runs:
    """Undo `decode_runs`."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    counts = np.diff(edges).tolist()
    return Runs(tuple([0, *counts] if flat[0] else counts), mask.shape)


def parse_mask(value: Any, folder: Path, where: str) -> AnyMask:
    """Return the mask that JSON describes: a path, COCO's RLE or polygons.

    Raises `DataError` that begins with `where`.
    """
    if isinstance(value, str):
        return MaskFile(folder / value)
    if isinstance(value, dict) and {"size", "counts"} <= set(value):
        return _parse_runs(value, where)
    if isinstance(value, list) and value and all(isinstance(part, list) for part in value):
        places = [x for part in value for x in part]
        sound = all(isinstance(x, int | float) and abs(x) <= FARTHEST for x in places)
        if sound and all(len(part) >= 6 and len(part) % 2 == 0 for part in value):
            return Polygons(tuple(tuple(float(x) for x in part) for part in value))
    raise DataError(
        f"{where}: not a mask: {str(value)[:60]}", "write a PNG's path, COCO's RLE or polygons"
    )


def _parse_runs(value: dict[str, Any], where: str) -> Runs:
    counts = value["counts"]
    try:
        height, width = (int(side) for side in value["size"])
        numbers = unpack_counts(counts) if isinstance(counts, str) else [int(n) for n in counts]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: damaged run lengths ({error})") from error
    if any(n < 0 for n in numbers) or sum(numbers) != height * width:
        raise DataError(f"{where}: the run lengths do not fill {width} x {height} pixels")
    return Runs(tuple(numbers), (height, width))


def unpack_counts(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    Five bits to a character from '0' on, bit 5 says that more follow, the last one's bit 4 is
    the sign; from the third number on they are differences from the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"'{character}' in the run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run lengths break off")
    return counts


@dataclass(frozen=True)
class Letterbox:
    """How a picture (height, width) lies in a square: scaled, centred, zeros around it."""

    size: int
    height: int
    width: int

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the scaled picture."""
        scale = min(self.size / self.height, self.size / self.width)
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """Top and left of the scaled picture."""
        return (self.size - self.inner[0]) // 2, (self.size - self.inner[1]) // 2

    def pad(self, picture: pillow.Image, method: pillow.Resampling) -> pillow.Image:
        """Return the square."""
        (height, width), (top, left) = self.inner, self.corner
        square = pillow.new(picture.mode, (self.size, self.size))
        square.paste(picture.resize((width, height), method), (left, top))
        return square

    def crop(self, square: NDArray[Any]) -> NDArray[Any]:
        """Return the part (..., h, w) of a square (..., S, S) that shows the scaled picture."""
        (height, width), (top, left) = self.inner, self.corner
        return square[..., top : top + height, left : left + width]


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of a mask, right and bottom exclusive; None if empty."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def union(masks: Sequence[Mask]) -> Mask:
    """Return what is in any of the masks."""
    return np.logical_or.reduce(list(masks))
