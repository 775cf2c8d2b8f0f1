"""Reading video frame by frame, whatever it is kept in, and writing MP4 in one step.

A video is a file of any container that FFmpeg knows, a folder of numbered pictures, or an array
(.npy, .npz) of shape (T, H, W, 3) uint8. Nothing is held but the frame at hand.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .files import replacing
from .media import IMAGE_SUFFIXES, read_image

Pixels = NDArray[np.uint8]
CONTAINERS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"}
    | {".ts", ".mts", ".m2ts", ".3gp", ".gif", ".y4m"}
)
ARRAYS = frozenset({".npy", ".npz"})
MAX_FRAME_PIXELS = 64_000_000  # 8K is 33 million
MAX_ARRAY_BYTES = 32 * 2**30
DEFAULT_FPS = 25.0  # of pictures and arrays, which have no clock


class Frame(NamedTuple):
    """One picture of a video: seconds since the first one, and RGB (H, W, 3) uint8."""

    time_s: float
    pixels: Pixels


class Video(ABC):
    """A video that can be read from its beginning any number of times.

    `width` and `height` are those of the first frame as shown (turned upright). `count` is the
    number of frames where it is known without decoding, else None.
    """

    def __init__(
        self, name: str, fps: float, width: int, height: int, count: int | None = None
    ) -> None:
        self.name, self.fps = name, fps
        self.width, self.height, self.count = width, height, count
        if width * height > MAX_FRAME_PIXELS:
            raise DataError(f"{name}: frames of {width}x{height} pixels are too large")
        if not 0 < fps <= 10_000:
            raise DataError(f"{name} has {fps:g} frames per second", "give its true rate")

    @abstractmethod
    def frames(self, start_s: float = 0.0) -> Iterator[Frame]:
        """Yield the frames from the one shown at `start_s` seconds on, in order of time.

        Raises `DataError` at the first frame that cannot be read.
        """

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def at(self, times_s: Sequence[float]) -> list[Frame]:
        """Return the frames shown at these times (ascending, seconds), the last one beyond the end.

        Only what lies between the first and the last of them is decoded.
        """
        if list(times_s) != sorted(times_s):
            raise ValueError("times must ascend")
        wanted, shown = list(times_s), []
        last: Frame | None = None
        for frame in self.frames(wanted[0] if wanted else 0.0):
            while last is not None and wanted and wanted[0] < frame.time_s - 1e-6:
                shown.append(last)
                wanted.pop(0)
            if not wanted:
                return shown
            last = frame
        if last is None:
            raise DataError(f"{self.name} has no frames")
        return shown + [last] * len(wanted)


def open_video(path: str | Path, fps: float | None = None) -> Video:
    """Return the video in a file or a folder of numbered pictures, without decoding it.

    `fps` is the rate of pictures and arrays (25 when not given); a container knows its own.
    Raises `DataError` when there is no video, or none that can be read.
    """
    path = Path(path)
    if path.is_dir():
        return _Pictures(path, fps or DEFAULT_FPS)
    if not path.is_file():
        raise DataError(f"{path} does not exist", "give a video file or a folder of pictures")
    if path.suffix.lower() in ARRAYS:
        return _Stack(path, fps or DEFAULT_FPS)
    return _Container(path)


def is_video(path: Path) -> bool:
    """Return True when the ending of a file, or the pictures in a folder, look like a video."""
    if path.is_dir():
        return any(item.suffix.lower() in IMAGE_SUFFIXES for item in path.iterdir())
    return path.suffix.lower() in CONTAINERS | ARRAYS


def find_videos(folder: str | Path) -> list[Path]:
    """Return the videos below `folder`, sorted: files, and sub-folders that hold pictures.

    Raises `DataError` when there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}", "give a folder of videos")
    found = sorted(item for item in folder.rglob("*") if is_video(item))
    if not found:
        raise DataError(
            f"{folder} holds no videos",
            f"known endings: {' '.join(sorted(CONTAINERS | ARRAYS))}; or folders of pictures",
        )
    return found


# --- containers ---


class _Container(Video):
    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as (container, stream):
            # AVI keeps no time stamps; those that FFmpeg guesses need not ascend.
            self.clocked = container.format.name != "avi"
            rate = stream.average_rate or stream.guessed_rate
            fps = float(rate) if rate else DEFAULT_FPS
            first = next(container.decode(stream), None)
            if first is None:
                raise DataError(f"{path} has no frames")
            turned = first.rotation % 180 != 0
            width, height = first.width, first.height
            if turned:
                width, height = height, width
            self.begin = float(first.time) if first.time is not None else 0.0
            super().__init__(str(path), fps, width, height, stream.frames or None)

    def frames(self, start_s: float = 0.0) -> Iterator[Frame]:
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            if self.clocked and start_s > 0:
                _seek(container, stream, start_s + self.begin)
            before = -1.0
            waiting: tuple[float, Any] | None = None  # may be the one shown at start_s
            for number, frame in enumerate(container.decode(stream)):
                before = time_s = self._time(frame, number, before)
                if waiting is not None and time_s > start_s:
                    yield Frame(waiting[0], _upright(waiting[1]))
                waiting = (time_s, frame) if time_s <= start_s else None
                if waiting is None:
                    yield Frame(time_s, _upright(frame))
            if waiting is not None:
                yield Frame(waiting[0], _upright(waiting[1]))

    def _time(self, frame: Any, number: int, before: float) -> float:
        """Return the seconds of a frame since the first; they ascend whatever the file says."""
        if not self.clocked:
            return number / self.fps
        if frame.time is not None and float(frame.time) - self.begin > before:
            return float(frame.time) - self.begin
        return before + 1 / self.fps


def _seek(container: Any, stream: Any, time_s: float) -> None:
    """Go to the last key frame before a time; a stream that cannot seek starts at its beginning."""
    import av

    try:
        container.seek(int(time_s / stream.time_base), stream=stream, backward=True)
    except av.error.FFmpegError:
        container.seek(0)


def _upright(frame: Any) -> Pixels:
    """Return RGB, turned where a camera lay on its side, as its display matrix says."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90 % 4))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        with av.open(str(path), mode="r") as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream")
            yield container, container.streams.video[0]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable video ({reason})") from error


# --- pictures and arrays ---


class _Pictures(Video):
    def __init__(self, folder: Path, fps: float) -> None:
        found = [item for item in folder.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise DataError(f"{folder} holds no pictures", "give a folder of numbered pictures")
        self.files = sorted(found, key=_by_number)
        first = read_image(self.files[0])
        super().__init__(str(folder), fps, first.width, first.height, len(self.files))

    def frames(self, start_s: float = 0.0) -> Iterator[Frame]:
        for number in range(_shown_at(start_s, self.fps), len(self.files)):
            pixels = np.array(read_image(self.files[number]))
            if pixels.shape[:2] != (self.height, self.width):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise DataError(
                    f"{self.files[number]} has {size} pixels, "
                    f"the first picture {self.width}x{self.height}"
                )
            yield Frame(number / self.fps, pixels)


def _shown_at(time_s: float, fps: float) -> int:
    return max(0, int(time_s * fps + 1e-6))


def _by_number(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort frame10 behind frame9."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part) if part.isdigit() else -1, part) for part in parts], path.name


class _Stack(Video):
    def __init__(self, path: Path, fps: float) -> None:
        self.array = _read_stack(path)
        kind, shape = self.array.dtype, self.array.shape
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise DataError(
                f"{path} holds {kind} of shape {shape}", "a video is (T, H, W, 3), uint8"
            )
        super().__init__(str(path), fps, shape[2], shape[1], shape[0])

    def frames(self, start_s: float = 0.0) -> Iterator[Frame]:
        for number in range(_shown_at(start_s, self.fps), len(self.array)):
            yield Frame(number / self.fps, np.array(self.array[number]))


def _read_stack(path: Path) -> NDArray[Any]:
    """Map an .npy into memory; an .npz must hold one array, or one called "frames"."""
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            if sum(item.file_size for item in arrays.zip.infolist()) > MAX_ARRAY_BYTES:
                raise DataError(f"{path} unpacks to more than {MAX_ARRAY_BYTES >> 30} GiB")
            names = arrays.files
            if len(names) != 1 and "frames" not in names:
                raise DataError(f"{path} holds {', '.join(names) or 'nothing'}", "name it frames")
            return arrays["frames" if "frames" in names else names[0]]
    except DataError:
        raise
    except Exception as error:  # damaged archives fail in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable array ({reason})") from error


# --- writing ---


class VideoWriter:
    """Takes frames (H, W, 3) uint8 of one size; made by `writing_video`."""

    def __init__(self, container: Any, fps: float) -> None:
        self.container, self.fps = container, Fraction(fps).limit_denominator(60_000)
        self.stream: Any = None
        self.shape: tuple[int, ...] = ()

    def add(self, pixels: Pixels) -> None:
        """Append a frame. Raises `ValueError` when it is not of the first one's size."""
        import av

        if self.stream is None:
            self._start(pixels)
        if pixels.shape != self.shape:
            raise ValueError(f"a frame of shape {pixels.shape} in a video of {self.shape}")
        # The usual colour format halves both sides: repeat the last row or column of an odd one.
        odd = ((0, self.shape[0] % 2), (0, self.shape[1] % 2), (0, 0))
        even = np.pad(pixels, odd, mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def _start(self, pixels: Pixels) -> None:
        import av

        self.shape = pixels.shape
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.stream = self.container.add_stream(codec, rate=self.fps)
        height, width = pixels.shape[:2]
        self.stream.height, self.stream.width = height + height % 2, width + width % 2
        self.stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            self.stream.options = {"crf": "18", "preset": "fast"}

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())


@contextmanager
def writing_video(path: str | Path, fps: float) -> Iterator[VideoWriter]:
    """Yield a writer of an MP4 (H.264) that appears under `path` when the block ends well.

    An odd width or height grows by one. Raises `DataError` when the file cannot be written or
    no frame was added.
    """
    import av

    if Path(path).suffix.lower() != ".mp4":
        raise DataError(f"{path}: cannot write '{Path(path).suffix}'", "give a name ending in .mp4")
    with replacing(path) as temporary:
        with av.open(str(temporary), mode="w", format="mp4") as container:
            writer = VideoWriter(container, fps)
            yield writer
            writer.close()
        if writer.stream is None:
            raise DataError(f"{path}: a video without frames", "add one at least")
