"""Reading images with validation, and writing them atomically."""

from __future__ import annotations

import gzip
import io
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError
from .files import replacing

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
MAX_PIXELS = 400_000_000


def read_image(path: str | Path, mode: str = "RGB") -> Image:
    """Return an image in PIL mode `mode` ("RGB" or "L"), turned upright by its EXIF tag.

    `-` reads standard input. Raises `DataError` when the file is missing, truncated, larger
    than 400 megapixels, or not an image.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    source: Any = io.BytesIO(sys.stdin.buffer.read()) if str(path) == "-" else path
    try:
        with pillow.open(source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path} has {width}x{height} pixels, more than {MAX_PIXELS:,}")
            return ImageOps.exif_transpose(image).convert(mode)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable image ({reason})") from error


def centre_square(image: Image, size: int, resize: int, method: int) -> Image:
    """Scale the shorter side to `resize` pixels and cut `size` x `size` out of the middle.

    `method` is one of Pillow's `Resampling`. An image of that size already stays as it is.
    """
    if image.size == (size, size):
        return image
    scale = resize / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    box = (left, top, left + size, top + size)
    return image.resize((width, height), method).crop(box)


def find_images(folder: str | Path) -> list[Path]:
    """Return the image files below `folder`, sorted. Raises `DataError` when there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}", "give a folder of images")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(
            f"{folder} holds no images", f"known endings: {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def hold_out(folder: Path, judges: Path | None, count: int) -> tuple[list[Path], list[Path]]:
    """Return the images of `folder` to train on, and those that choose the best weights.

    The latter are those of `judges`, or else `count` of the folder's (a quarter at most), evenly
    spread. Raises `DataError` for fewer than four.
    """
    paths = find_images(folder)
    if judges is not None:
        return paths, find_images(judges)
    count = min(count, len(paths) // 4)
    if count == 0:
        raise DataError(f"{folder}: {len(paths)} images are too few to train on")
    chosen = paths[:: len(paths) // count][:count]
    return [path for path in paths if path not in chosen], chosen


_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, max_bytes: int = 2**31) -> np.ndarray[Any, Any]:
    """Return the array in an IDX file (the format of MNIST), gzipped or not.

    Raises `DataError` when the header and the length disagree.
    """
    import numpy as np

    path = Path(path)
    try:
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    rank = data[3] if len(data) > 3 else 0
    start = 4 + 4 * rank
    if len(data) < start or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise DataError(f"{path} is not an IDX file")
    shape = np.frombuffer(data, ">u4", rank, 4).tolist()
    kind = np.dtype(_IDX_TYPES[data[2]])
    if len(data) > max_bytes or len(data) - start != math.prod(shape) * kind.itemsize:
        raise DataError(f"{path}: its header says {shape}, its length disagrees")
    return np.frombuffer(data, kind, offset=start).reshape(shape)


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image (C, H, W) with values in [0, 1] (C = 1 or 3) as 8 bit, in one step."""
    from PIL import Image as pillow

    levels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = pillow.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    with replacing(path) as temporary:
        picture.save(temporary)


def contact_sheet(images: Tensor, columns: int = 8, gap: int = 2) -> Tensor:
    """Tile images (N, C, H, W) into one picture (C, H', W'), row by row on white."""
    import torch

    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    sheet = torch.ones(
        channels, rows * (height + gap) - gap, columns * (width + gap) - gap, dtype=images.dtype
    )
    for place, image in enumerate(images):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield consecutive slices of at most `size` items."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
