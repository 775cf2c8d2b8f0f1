"""Pictures as they are: full bit depth, alpha, colour profile; read upright, written in one step.

`core.media.read_image` gives 8-bit RGB or grey for networks that want no more than that.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, UsageError
from .files import write_bytes
from .media import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, Any]

WRITABLE = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
_NO_ALPHA = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".pgm": "PPM"}
_ORIENTATION, _BITS_PER_SAMPLE, _ICC = 0x0112, 258, 34675
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """An image: `planes` (C, H, W) float32 in [0, 1], C = 1 (grey) or 3 (RGB).

    `depth` is 8 or 16 bit per channel; `alpha` (H, W) is kept as it was stored; `icc` is the
    colour profile; `suffix` tells the format that it came in.
    """

    planes: Tensor
    depth: int = 8
    alpha: Array | None = None
    icc: bytes | None = None
    suffix: str = ".png"

    def with_planes(self, planes: Tensor) -> Picture:
        """Return the same picture with other values, clipped to [0, 1]."""
        return replace(self, planes=planes.detach().cpu().float().clamp(0, 1))

    def pixels(self) -> Array:
        """Return (H, W, channels) in uint8 or uint16, alpha last where there is one."""
        top, kind = (255, np.uint8) if self.depth == 8 else (65535, np.uint16)
        scaled = (self.planes * top).round().permute(1, 2, 0).numpy().astype(kind)
        return scaled if self.alpha is None else np.dstack((scaled, self.alpha))


def read_picture(path: str | Path) -> Picture:
    """Return an image file (`-`: standard input), turned upright by its EXIF tag.

    Raises `DataError` when it is missing, truncated, larger than 400 megapixels, no image, or
    of a kind that has no 8- or 16-bit form.
    """
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    name = "standard input" if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
        with pillow.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise DataError(f"{name} has {size} pixels, more than {MAX_PIXELS:,}")
            return _decode(image, data, name)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not a readable image (unknown format)") from error
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} is not a readable image ({reason})") from error


def _decode(image: Image, data: bytes, name: str) -> Picture:
    """Turn an opened image into a picture."""
    bits = _bits(image, data)
    if image.mode == "F" or bits > 16:
        raise DataError(f"{name} has {bits} bits per channel", "convert it to 8 or 16 bit first")
    orientation = image.getexif().get(_ORIENTATION, 1)
    icc = image.info.get("icc_profile")
    if bits == 16:
        array = np.asarray(image).astype(np.uint16) if _is_grey16(image) else _with_ffmpeg(data)
    else:
        if image.mode == "CMYK":
            icc = None  # describes inks, not the RGB that comes out
        array = np.asarray(image.convert(_mode(image)))
    array = _upright(array if array.ndim == 3 else array[..., None], orientation)
    channels, depth = array.shape[2], 16 if array.dtype == np.uint16 else 8
    alpha = array[..., -1].copy() if channels in (2, 4) else None
    colours = array[..., : channels - (alpha is not None)].astype(np.float32)
    planes = torch.from_numpy(colours / (2**depth - 1)).permute(2, 0, 1).contiguous()
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(image.format or "", f".{image.format}".lower())
    return Picture(planes, depth, alpha, icc, suffix if suffix in WRITABLE else ".png")


def _bits(image: Image, data: bytes) -> int:
    """Return the bits per channel in the file: Pillow shows 16-bit colour as 8-bit."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        tags: Any = image
        return int(max(tags.tag_v2.get(_BITS_PER_SAMPLE, (8,))))
    return {"F": 32, "I": 32}.get(image.mode, 16 if image.mode.startswith("I") else 8)


def _is_grey16(image: Image) -> bool:
    return image.mode.startswith("I")


def _with_ffmpeg(data: bytes) -> Array:
    """Decode 16-bit colour, which Pillow cannot."""
    import av

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            frame = next(container.decode(video=0))
    except (av.error.FFmpegError, StopIteration) as error:
        raise ValueError(f"16-bit image cannot be decoded: {error}") from error
    if frame.format.name.startswith("ya16"):  # grey and alpha, which PyAV leaves to us
        kind = ">u2" if frame.format.name.endswith("be") else "<u2"
        rows = np.frombuffer(bytes(frame.planes[0]), kind).reshape(frame.height, -1, 2)
        return rows[:, : frame.width].astype(np.uint16)
    array: Array = frame.to_ndarray()
    if array.dtype != np.uint16:
        raise ValueError(f"unknown 16-bit layout {frame.format.name}")
    return array


def _mode(image: Image) -> str:
    """Return the 8-bit mode that loses nothing of an image."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if image.mode in ("1", "L", "LA"):
        return "LA" if transparent else "L"
    return "RGBA" if transparent else "RGB"


def _upright(array: Array, orientation: int) -> Array:
    """Apply an EXIF orientation 1..8 to (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def check_format(path: Path, name: str = "--out") -> None:
    """Raise `UsageError` when no image can be written under this name."""
    if path.suffix.lower() not in WRITABLE:
        known = " ".join(WRITABLE)
        raise UsageError(f"{name} {path}: unknown image format", f"known endings: {known}")


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write a picture in the format of the ending of `path`, in one step.

    16 bit fits into PNG and TIFF, alpha into PNG, TIFF and WebP. Raises `DataError` where
    something would be lost.
    """
    write_bytes(path, encode_picture(picture, Path(path).suffix.lower()))


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """Return the bytes of an image file in the format of `suffix` (see `write_picture`)."""
    from PIL import Image as pillow

    if picture.depth == 16 and suffix not in (".png", ".tif", ".tiff"):
        raise DataError(f"{suffix} cannot hold 16 bits per channel", "write .png or .tif")
    grey_alpha = len(picture.planes) == 1 and picture.alpha is not None
    if picture.depth == 16 and grey_alpha and suffix != ".png":
        raise DataError(f"{suffix} cannot hold 16-bit grey with alpha", "write .png")
    if picture.alpha is not None and suffix in _NO_ALPHA:
        raise DataError(f"{suffix} cannot hold an alpha channel", "write .png, .webp or .tif")
    pixels = picture.pixels()
    if picture.depth == 16:
        encode = _png16 if suffix == ".png" else _tiff16
        return encode(pixels, picture.icc)
    buffer = io.BytesIO()
    image = pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    form = _FORMATS.get(suffix, suffix[1:].upper())
    settings: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
    if form == "JPEG":
        settings |= {"quality": 95, "subsampling": 0}
    if suffix == ".webp":
        settings["lossless"] = True
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def _png16(pixels: Array, icc: bytes | None) -> bytes:
    """Return a 16-bit PNG of (H, W, C), C = 1..4."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Filter 2 (difference to the row above) on all rows: simple, and compresses well.
    above = np.vstack((np.zeros_like(rows[:1]), rows[:-1]))
    filtered = np.hstack((np.full((height, 1), 2, np.uint8), rows - above))
    parts = [_PNG, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if icc:
        parts.append(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc)))
    parts += [_chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _tiff16(pixels: Array, icc: bytes | None) -> bytes:
    """Return an uncompressed 16-bit TIFF of (H, W, C), C = 1..4: header, data, directory."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    colours = 3 if channels >= 3 else 1
    short, long_, undefined = 3, 4, 7
    tags: list[tuple[int, int, tuple[int, ...] | bytes]] = [
        (256, long_, (width,)),
        (257, long_, (height,)),
        (_BITS_PER_SAMPLE, short, (16,) * channels),
        (259, short, (1,)),  # no compression
        (262, short, (2 if colours == 3 else 1,)),  # RGB, or black is zero
        (273, long_, (8,)),  # the data follow the header
        (277, short, (channels,)),
        (278, long_, (height,)),
        (279, long_, (len(data),)),
    ]
    if channels > colours:
        tags.append((338, short, (2,)))  # alpha, not multiplied in
    if icc:
        tags.append((_ICC, undefined, icc))
    padded = data + b"\0" * (len(data) % 2)
    directory = 8 + len(padded)
    extra_at = directory + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, kind, values in tags:
        packed = values if isinstance(values, bytes) else _pack(kind == short, values)
        if len(packed) > 4:
            field = struct.pack("<I", extra_at + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + field
    header = b"II*\0" + struct.pack("<I", directory)
    return header + padded + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + extra


def _pack(short: bool, values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(values)}{'H' if short else 'I'}", *values)
