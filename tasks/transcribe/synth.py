"""Spoken strings made of single recordings: several words of one speaker, with gaps and noise."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...core.audio import read_audio, resample, write_wav
from ...core.errors import DataError
from ...core.files import check_writable, write_text
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import stream
from .config import JoinConfig, bounds
from .data import Utterance

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8000
LONGEST_GAP_S = 0.11
_NAME = re.compile(r"([^_]+)_([^_]+)_(\d+)")


class Recordings:
    """Single words in memory, by speaker: files WORD_SPEAKER_INDEX.wav; digits become words."""

    def __init__(
        self, folder: Path, indices: Collection[int], speakers: Sequence[str] = ()
    ) -> None:
        self.words: dict[str, list[tuple[str, Tensor]]] = {}
        for path in sorted(folder.glob("*.wav")):
            match = _NAME.fullmatch(path.stem)
            if not match or int(match[3]) not in indices:
                continue
            if speakers and match[2] not in speakers:
                continue
            word = DIGITS[int(match[1])] if match[1].isdigit() and len(match[1]) == 1 else match[1]
            samples = read_audio(path, RATE).samples
            self.words.setdefault(match[2], []).append((word, samples))
        if not self.words:
            raise DataError(
                f"{folder} holds no such recordings",
                "files must be called WORD_SPEAKER_INDEX.wav; see --indices and --speakers",
            )

    def join(
        self,
        count: int,
        generator: torch.Generator,
        noise: float,
        sizes: tuple[int, int] = (3, 6),
        speed: float = 0.0,
    ) -> list[Utterance]:
        """Return `count` strings of so many words, each of one speaker.

        `speed` changes each string's tempo and pitch by a factor within 1 - speed and 1 + speed:
        something like another speaker.
        """
        return [self._one(number, generator, noise, sizes, speed) for number in range(count)]

    def _one(
        self,
        number: int,
        generator: torch.Generator,
        noise: float,
        sizes: tuple[int, int],
        speed: float,
    ) -> Utterance:
        def draw(most: int) -> int:
            return int(torch.randint(most, (1,), generator=generator))

        names = sorted(self.words)
        speaker = names[draw(len(names))]
        words, parts = [], []
        for _ in range(sizes[0] + draw(sizes[1] - sizes[0] + 1)):
            word, samples = self.words[speaker][draw(len(self.words[speaker]))]
            words.append(word)
            parts += [samples, torch.zeros(draw(round(LONGEST_GAP_S * RATE)))]
        audio = torch.cat(parts)
        if speed:
            steps = round(100 * speed)  # whole percents keep the resampling filters few
            audio = resample(audio, 100, 100 - steps + draw(2 * steps + 1))
        audio = (audio + noise * torch.randn(len(audio), generator=generator)).clamp(-1, 1)
        key = f"{speaker}-{number:05d}"
        return Utterance(key, None, " ".join(words), speaker, audio=audio)


def spoken_strings(
    config: JoinConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Write strings as wav files and a manifest. Raises `DataError` when nothing fits."""
    progress, options = progress or Silent(), run_options or RunOptions()
    manifest = config.out / "manifest.jsonl"
    check_writable(manifest, config.overwrite)
    first, last = bounds(config.indices)
    speakers = config.speakers.split(",") if config.speakers else ()
    recordings = Recordings(config.recordings, range(first, last + 1), speakers)
    made = recordings.join(
        config.count, stream(options.seed, 7), config.noise, bounds(config.size), config.speed
    )
    lines = []
    with progress.task("writing", len(made)) as task:
        for item in made:
            assert item.audio is not None
            name = f"{item.key}.wav"
            write_wav(config.out / name, item.audio, RATE)
            seconds = len(item.audio) / RATE
            line = {"audio_filepath": name, "duration": round(seconds, 4), "text": item.text}
            lines.append(json.dumps({**line, "speaker": item.speaker}))
            task.advance()
    write_text(manifest, "\n".join(lines) + "\n")
    total = sum(len(item.audio) for item in made if item.audio is not None) / RATE
    return Result(
        inputs={"recordings": str(config.recordings)},
        outputs={"manifest": str(manifest)},
        metrics={"strings": len(made), "seconds": round(total, 1)},
        notes=(
            f"{len(made)} strings, {total / 60:.1f} minutes; "
            f"next: mlkit train transcribe {manifest}",
        ),
    )
