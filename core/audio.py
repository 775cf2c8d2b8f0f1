"""Reading audio with validation: wav, flac, ogg and mp3 through libsndfile, no system codecs."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"})
MAX_SECONDS = 6 * 3600
RATES = (1000, 384_000)


@dataclass(frozen=True)
class Audio:
    """One channel of samples (N,), float32 in [-1, 1]; `original_rate` is that of the file."""

    samples: Tensor
    rate: int
    original_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


def read_audio(
    path: str | Path, rate: int | None = None, start_s: float = 0.0, end_s: float | None = None
) -> Audio:
    """Return a file's audio, mixed down to one channel and resampled to `rate` (None: as it is).

    `-` is standard input. Raises `DataError` when the file is missing or cannot be decoded, is
    empty, longer than six hours, or holds NaN or infinite samples.
    """
    import soundfile
    import torch

    name = "standard input" if str(path) == "-" else str(path)
    source: Any = io.BytesIO(sys.stdin.buffer.read()) if str(path) == "-" else path
    if isinstance(source, str | Path) and not Path(source).is_file():
        what = "is a folder" if Path(source).is_dir() else "does not exist"
        raise DataError(f"{name} {what}", "give an audio file")
    try:
        with soundfile.SoundFile(source) as file:
            _check_size(name, file.frames, file.samplerate)
            first = round(start_s * file.samplerate)
            last = (
                file.frames if end_s is None else min(file.frames, round(end_s * file.samplerate))
            )
            file.seek(min(first, file.frames))
            data = file.read(max(0, last - first), dtype="float32", always_2d=True)
            found, channels = file.samplerate, file.channels
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataError(
            f"cannot decode {name}: not a wav, flac, ogg or mp3 file",
            "convert it, for instance: ffmpeg -i IN -ac 1 OUT.wav",
        ) from error
    samples = torch.from_numpy(data).mean(1)
    if not len(samples):
        raise DataError(f"{name} holds no samples", "record again, or leave the file out")
    if not torch.isfinite(samples).all():
        raise DataError(f"{name} holds samples that are not finite numbers", "write it anew")
    return Audio(resample(samples, found, rate or found), rate or found, found, channels)


def _check_size(name: str, frames: int, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{name} has a sampling rate of {rate} Hz", "is its header damaged?")
    if frames > MAX_SECONDS * rate:
        raise DataError(
            f"{name} lasts {frames / rate / 3600:.1f} hours, more than {MAX_SECONDS // 3600}",
            "cut it into pieces",
        )


def resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Return samples (N,) at another rate (polyphase filter, Kaiser window)."""
    if old == new:
        return samples
    import torch
    from scipy.signal import resample_poly

    common = math.gcd(old, new)
    changed = resample_poly(samples.double().numpy(), new // common, old // common)
    return torch.from_numpy(changed).float()


def duration(path: str | Path) -> float:
    """Return the seconds that a file lasts, by its header. Raises `DataError` for no audio."""
    import soundfile

    try:
        found = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataError(f"cannot decode {path}: not a wav, flac, ogg or mp3 file") from error
    return float(found.frames / found.samplerate)


def find_audio(folder: str | Path) -> list[Path]:
    """Return the audio files below `folder`, sorted. Raises `DataError` when there are none."""
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise DataError(
            f"{folder} holds no audio files", f"known endings: {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return found


def write_wav(path: str | Path, samples: Tensor, rate: int) -> None:
    """Write samples (N,) in [-1, 1] as 16-bit wav, in one step."""
    import soundfile

    from .files import replacing

    with replacing(path) as temporary:
        soundfile.write(temporary, samples.numpy(), rate, subtype="PCM_16", format="WAV")
