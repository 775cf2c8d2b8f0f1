"""Sequences of frames: MOTChallenge folders, folders of images; which frames to look at."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.media import IMAGE_SUFFIXES, read_image
from ...core.progress import Progress
from ...core.video import CONTAINERS, open_video
from .boxes import Array
from .formats import Rows, read_detections, read_scalabel, read_truth

DEFAULT_FPS = 30.0


@dataclass(frozen=True)
class SequenceInfo:
    """A video as files: `paths` of its frames, numbered `numbers` (from 1), or a `video` file.

    `times` are seconds from the first frame; `size` is (width, height).
    """

    name: str
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    fps: float
    size: tuple[int, int]
    paths: tuple[Path, ...] = ()
    video: Path | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def truth(self) -> Rows:
        """Return the ground truth of a MOTChallenge folder. Raises `DataError` without one."""
        if self.folder is None:
            raise DataError(f"{self.name} has no ground truth", "give a MOTChallenge folder")
        return read_truth(self.folder / "gt" / "gt.txt")

    def boxes(self, source: str) -> Rows:
        """Return the boxes to track: "gt", "det", or a file of detections."""
        if source == "gt":
            return self.truth().counted(None)
        if source == "det":
            if self.folder is None:
                raise UsageError(f"--det det: {self.name} is no MOTChallenge folder")
            return read_detections(self.folder / "det" / "det.txt")
        return read_detections(Path(source))

    def index(self, frame: int) -> int:
        """Return the place of a frame number."""
        return int(np.searchsorted(self.numbers, frame))

    def read(self, places: Sequence[int]) -> Iterator[Array]:
        """Yield frames, uint8 (H, W, 3), in ascending order of their places.

        Raises `DataError` for a frame that cannot be read or has another size.
        """
        if self.video is not None:
            if len(places):
                yield from _decode(self.video, places, self.times[places[0]] + 1e-4)
            return
        for place in places:
            image = np.asarray(read_image(self.paths[place]))
            if (image.shape[1], image.shape[0]) != self.size:
                raise DataError(
                    f"{self.paths[place]} is {image.shape[1]}x{image.shape[0]}, the frames before "
                    f"are {self.size[0]}x{self.size[1]}",
                    "all frames of a sequence have one size",
                )
            yield image

    def choose(self, fps: float, every: int, progress: Progress | None = None) -> list[int]:
        """Return the places of the frames to look at: every k-th, or those nearest to j / fps.

        An `fps` above that of the source means all frames (with a warning unless it is infinite).
        """
        if every > 1 or fps >= self.fps:
            if self.fps * 1.001 < fps < 1e9 and progress is not None:
                progress.warn(
                    f"--fps {fps:g} is more than {self.name} has ({self.fps:g}): all used"
                )
            return list(range(0, len(self), every))
        times = np.asarray(self.times)
        wanted = np.arange(int(np.floor(times[-1] * fps + 1e-6)) + 1) / fps
        right = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
        left = np.maximum(right - 1, 0)
        nearer = np.where(wanted - times[left] <= times[right] - wanted, left, right)
        return sorted(set(nearer.tolist()))


def open_sequence(path: str | Path, progress: Progress | None = None) -> SequenceInfo:
    """Open a MOTChallenge folder, a folder of images, or a video.

    Raises `DataError` when it holds no frames.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist", "give a video or a folder of frames")
    if path.is_file():
        return _open_video(path, path.stem, None)
    if (path / "seqinfo.ini").exists() or (path / "img1").is_dir():
        return _open_mot(path, progress)
    return _from_images(path, path.name, DEFAULT_FPS, None, progress)


def find_sequences(path: str | Path, progress: Progress | None = None) -> list[SequenceInfo]:
    """Return the sequence `path`, or those in the folder `path`, sorted by name."""
    path = Path(path)
    if not path.exists():
        raise DataError(
            f"{path} does not exist", "give a MOTChallenge sequence, or a folder of them"
        )
    folders = [p for p in sorted(path.iterdir()) if _is_mot(p)] if path.is_dir() else []
    if _is_mot(path) or not folders:
        return [open_sequence(path, progress)]
    return [open_sequence(folder, progress) for folder in folders]


def open_truths(
    path: str | Path, progress: Progress | None = None
) -> list[tuple[SequenceInfo, Rows]]:
    """Return sequences with their ground truth; a Scalabel file has boxes alone."""
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        return [(_bare(name, rows), rows) for name, rows in read_scalabel(path).items()]
    if path.suffix == ".txt" and path.is_file():
        rows = read_truth(path)
        return [(_bare(path.stem, rows), rows)]
    return [(info, info.truth()) for info in find_sequences(path, progress)]


def _bare(name: str, rows: Rows) -> SequenceInfo:
    """Return a sequence of which only the boxes are known."""
    last = int(rows.frame.max(initial=1))
    times = tuple(i / DEFAULT_FPS for i in range(last))
    return SequenceInfo(name, tuple(range(1, last + 1)), times, DEFAULT_FPS, (0, 0))


def _is_mot(path: Path) -> bool:
    return (path / "seqinfo.ini").is_file() or (path / "gt" / "gt.txt").is_file()


def _open_mot(path: Path, progress: Progress | None) -> SequenceInfo:
    settings = _seqinfo(path / "seqinfo.ini")
    name = settings.get("name", path.name)
    try:
        fps = float(settings.get("framerate", DEFAULT_FPS))
    except ValueError as error:
        raise DataError(f"{path / 'seqinfo.ini'}: frameRate {error}") from error
    if not 0 < fps < 1e5:
        raise DataError(f"{path / 'seqinfo.ini'}: frameRate {fps:g} is not a frame rate")
    images = path / settings.get("imdir", "img1")
    if images.is_dir():
        return _from_images(images, name, fps, path, progress)
    videos = [p for p in sorted(path.iterdir()) if p.suffix.lower() in CONTAINERS]
    if not videos:
        raise DataError(f"{path} holds neither {images.name}/ nor a video", "is it complete?")
    return _open_video(videos[0], name, path)


def _seqinfo(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8-sig")
        return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no seqinfo.ini ({reason})") from error


def _from_images(
    folder: Path, name: str, fps: float, root: Path | None, progress: Progress | None
) -> SequenceInfo:
    """Open a folder of images; their numbers are those in their names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no frames", "frames are images such as 000001.jpg")
    digits = [re.findall(r"\d+", p.stem) for p in paths]
    numbers = [int(found[-1]) for found in digits if found]
    if len(set(numbers)) != len(paths) or numbers != sorted(numbers):
        numbers = list(range(1, len(paths) + 1))
    if numbers[0] == 0:
        numbers = [number + 1 for number in numbers]  # files from 0, frames from 1
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing and progress is not None:
        progress.warn(f"{folder}: {missing} frame numbers are missing between the others")
    first = read_image(paths[0])
    times = tuple((number - numbers[0]) / fps for number in numbers)
    return SequenceInfo(name, tuple(numbers), times, fps, first.size, tuple(paths), None, root)


def _open_video(path: Path, name: str, root: Path | None) -> SequenceInfo:
    """Open a video file; one pass over it finds the time stamps, which need not be even."""
    video = open_video(path)
    times = tuple(frame.time_s for frame in video)
    if not times:
        raise DataError(f"{path} has no frames")
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else video.fps
    size = (video.width, video.height)
    return SequenceInfo(name, tuple(range(1, len(times) + 1)), times, fps, size, (), path, root)


def _decode(path: Path, places: Sequence[int], begin_s: float) -> Iterator[Array]:
    """Yield the frames at ascending places of a video file; the first is shown at `begin_s`."""
    wanted = iter(places)
    following = next(wanted, None)
    for place, frame in enumerate(open_video(path).frames(begin_s), places[0]):
        while following is not None and place == following:
            yield frame.pixels
            following = next(wanted, None)
        if following is None:
            return


def to_tensor(image: Array, longer: int) -> Tensor:
    """Scale a frame, uint8 (H, W, 3), to a longer side of `longer` pixels: (3, h, w) in [0, 1]."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = longer / max(height, width)
    size = (max(32, round(width * scale)), max(32, round(height * scale)))
    if size != (width, height):
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
