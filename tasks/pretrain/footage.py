"""Frames of many videos at hand: a cache of decoded, scaled frames, or decoding on demand."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DataError
from ...core.files import replacing, write_text
from ...core.progress import Progress
from ...core.video import Frame, Pixels, Video, open_video
from .config import ClipOptions, ReadOptions
from .listing import SHOWN, VideoSet

MOST_BROKEN = 0.1


class Footage(ABC):
    """A video at an even rate: `length` frames (height, width), `fps` of them per second."""

    def __init__(self, length: int, fps: float, height: int, width: int, digest: str) -> None:
        self.length, self.fps = length, fps
        self.height, self.width, self.digest = height, width, digest

    @abstractmethod
    def read(self, frames: NDArray[np.int64], box: tuple[int, int, int, int]) -> Pixels:
        """Return these frames (ascending), cut to box (top, left, height, width)."""


class _Cached(Footage):
    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        size = (about["frames"], about["fps"], about["height"], about["width"])
        super().__init__(*size, about["digest"])
        self.path = path

    def read(self, frames: NDArray[np.int64], box: tuple[int, int, int, int]) -> Pixels:
        top, left, height, width = box
        shape = (self.length, self.height, self.width, 3)
        every = np.memmap(self.path, np.uint8, "r", shape=shape)
        return every[frames, top : top + height, left : left + width]


class _Live(Footage):
    def __init__(self, video: Video, options: ReadOptions, short: int) -> None:
        count = video.count or sum(1 for _ in video)
        fps = options.fps or video.fps
        self.video, self.scale = video, scaled_size(video.height, video.width, short)
        length = max(1, round(count * fps / video.fps))
        super().__init__(length, fps, *self.scale, digest=video.name)

    def read(self, frames: NDArray[np.int64], box: tuple[int, int, int, int]) -> Pixels:
        top, left, height, width = box
        shown = self.video.at((frames / self.fps).tolist())
        every = np.stack([scaled(frame.pixels, self.scale) for frame in shown])
        return every[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class Gathered:
    """Videos that can be read, in the order of `videos`; `broken` maps the others to reasons."""

    videos: VideoSet
    footage: tuple[Footage, ...]
    broken: dict[str, str]


def gather(
    videos: VideoSet, options: ReadOptions, short: int, folder: Path, progress: Progress
) -> Gathered:
    """Make the frames of all videos available; decoded ones are kept in `folder` (or --cache).

    A video that cannot be read is skipped with a warning. Raises `DataError` when that are more
    than a tenth of all.
    """
    folder = options.cache or folder
    kept: list[int] = []
    footage: list[Footage] = []
    broken: dict[str, str] = {}
    with progress.task("reading videos", len(videos)) as task:
        for place, path in enumerate(videos.paths):
            try:
                if options.no_cache:
                    found: Footage = _Live(open_video(path, options.picture_fps), options, short)
                else:
                    found = _cached(path, options, short, folder)
                footage.append(found)
                kept.append(place)
            except DataError as error:
                broken[videos.names[place]] = error.message
            task.advance(1, path.name)
    _judge(broken, len(videos), progress)
    return Gathered(videos.take(kept), tuple(footage), broken)


def _judge(broken: dict[str, str], count: int, progress: Progress) -> None:
    first = "; ".join(list(broken.values())[:SHOWN])
    if len(broken) > MOST_BROKEN * count:
        raise DataError(
            f"{len(broken)} of {count} videos cannot be read: {first}",
            "mend or remove them; up to a tenth would be skipped",
        )
    if broken:
        progress.warn(f"{len(broken)} of {count} videos cannot be read and were skipped: {first}")


def _cached(path: Path, options: ReadOptions, short: int, folder: Path) -> Footage:
    state = path.stat()
    key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{options.fps}|{short}|"
    key = hashlib.sha256(f"{key}{options.picture_fps}".encode()).hexdigest()[:32]
    frames, about = folder / f"{key}.rgb", folder / f"{key}.json"
    if not about.exists() or not frames.exists():
        video = open_video(path, options.picture_fps)
        fps = options.fps or video.fps
        content = _decode(video, options.fps, short, frames)
        write_text(about, json.dumps({"video": str(path), "fps": fps, **content}))
    return _Cached(frames, json.loads(about.read_text()))


def _decode(video: Video, fps: float, short: int, target: Path) -> dict[str, Any]:
    """Write the bytes of all frames, one at a time, and return their sizes and digest."""
    height, width = scaled_size(video.height, video.width, short)
    digest, count = hashlib.sha256(), 0
    with replacing(target) as temporary, temporary.open("wb") as stream:
        for frame in even(video, fps):
            data = scaled(frame.pixels, (height, width)).tobytes()
            digest.update(data)
            stream.write(data)
            count += 1
    if count == 0:
        raise DataError(f"{video.name} has no frames")
    return {"frames": count, "height": height, "width": width, "digest": digest.hexdigest()}


def even(video: Video, fps: float) -> Iterator[Frame]:
    """Yield the frame shown at 0, 1/fps, 2/fps, ...; all frames as they are when `fps` is 0."""
    if not fps:
        yield from video
        return
    number, last = 0, None
    for frame in video:
        while last is not None and number / fps < frame.time_s - 1e-6:
            yield Frame(number / fps, last.pixels)
            number += 1
        last = frame
    while last is not None and number / fps < last.time_s + 1 / video.fps - 1e-6:
        yield Frame(number / fps, last.pixels)
        number += 1


def scaled_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side brought down to `short`; never larger."""
    factor = min(1.0, short / min(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def scaled(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return RGB (H, W, 3) scaled to (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    from PIL import Image

    picture = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def check_lengths(footage: Sequence[Footage], clip: ClipOptions, progress: Progress) -> float:
    """Return the share of videos no longer than a clip, whose clips would all be the same.

    Warns of some; raises `DataError` where all are.
    """
    span = clip.frames * clip.stride
    short = sum(item.length <= span for item in footage)
    longest = max(item.length for item in footage)
    if short == len(footage):
        raise DataError(
            f"all {short} videos are no longer than a clip of {clip.frames} x {clip.stride} "
            f"frames (the longest has {longest})",
            f"take shorter clips, for example --stride {max(1, longest // (2 * clip.frames))}",
        )
    if short:
        progress.warn(
            f"{short} of {len(footage)} videos are no longer than a clip ({span} frames): their "
            "clips coincide, --clips changes nothing for them"
        )
    return short / len(footage)
