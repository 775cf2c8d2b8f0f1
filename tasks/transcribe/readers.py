"""Data sets as they lie on disk: which utterances there are, and what was said in them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core.audio import AUDIO_SUFFIXES, find_audio
from ...core.errors import DataError
from ...core.files import sha256
from .data import Utterance
from .tokens import plain_text

_DIGIT_FILE = re.compile(r"(\d)_([^_]+)_(\d+)")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def read_set(path: Path) -> list[Utterance]:
    """Return the utterances of a data set; its kind is told by what is there.

    A LibriSpeech tree (`*.trans.txt`), Kaldi (`wav.scp`, `text`, `segments`), a folder with
    `manifest.jsonl`, the free spoken digit dataset (`7_jackson_3.wav`), a folder of audio with or
    without `.txt` of the same name, a JSON-lines manifest, a Common Voice table, or one file.
    Raises `DataError` when nothing can be read from it.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "give a folder, a manifest, or an audio file")
    if path.is_file():
        return _read_file(path)
    if (path / "wav.scp").is_file():
        return _kaldi(path)
    if (path / "manifest.jsonl").is_file():
        return _manifest(path / "manifest.jsonl")
    transcripts = sorted(path.rglob("*.trans.txt"))
    if transcripts:
        return [item for file in transcripts for item in _librispeech(file)]
    return _folder(path)


def _read_file(path: Path) -> list[Utterance]:
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return [Utterance(path.stem, path)]
    if path.suffix in (".jsonl", ".json"):
        return _manifest(path)
    if path.suffix in (".csv", ".tsv"):
        return _table(path)
    raise DataError(
        f"{path} is no data set", "give a folder, a .jsonl manifest, a .tsv table, or audio"
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "save it as UTF-8") from error
    return [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the first word of every line, and the rest."""
    parts = [line.strip().partition(" ") for _, line in _lines(path)]
    return [(key, rest.strip()) for key, _, rest in parts]


def _librispeech(file: Path) -> list[Utterance]:
    found = []
    for key, text in _pairs(file):
        audio = next(
            (p for p in (file.parent / f"{key}{s}" for s in (".flac", ".wav")) if p.is_file()), None
        )
        if audio is None:
            raise DataError(f"{file} names {key}, but {key}.flac is not there", "fetch it again")
        found.append(Utterance(key, audio, plain_text(text), key.split("-")[0]))
    return found


def _manifest(path: Path) -> list[Utterance]:
    found = []
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            audio = Path(row["audio_filepath"])
            offset, seconds = float(row.get("offset") or 0), row.get("duration")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number} is no entry of a manifest ({error!r})",
                'each line must be like {"audio_filepath": "a.wav", "duration": 1.5, "text": "hi"}',
            ) from error
        audio = audio if audio.is_absolute() else path.parent / audio
        text = row.get("text")
        # A duration without an offset is that of the file: nothing is cut off.
        end = offset + float(seconds) if offset and seconds else None
        key = str(row.get("id") or audio.stem) + (f"-{offset:.3f}" if offset else "")
        found.append(
            Utterance(
                key, audio, None if text is None else plain_text(text),
                str(row.get("speaker") or ""), offset, end,
            )
        )  # fmt: skip
    return _not_empty(found, path)


def _kaldi(folder: Path) -> list[Utterance]:
    audio = dict(_pairs(folder / "wav.scp"))
    piped = next((key for key, place in audio.items() if place.endswith("|")), None)
    if piped is not None:
        raise DataError(
            f"{folder / 'wav.scp'}: {piped} is a command", "run it, and name the files it makes"
        )
    optional: Callable[[str], dict[str, str]] = lambda name: (  # noqa: E731
        dict(_pairs(folder / name)) if (folder / name).is_file() else {}
    )
    texts, speakers, segments = optional("text"), optional("utt2spk"), optional("segments")
    entries: dict[str, tuple[str, float, float | None]] = {key: (key, 0.0, None) for key in audio}
    if segments:
        try:
            cut = {key: rest.split() for key, rest in segments.items()}
            entries = {key: (r, float(a), float(b)) for key, (r, a, b) in cut.items()}
        except ValueError as error:
            raise DataError(
                f"{folder / 'segments'} is damaged ({error})", "lines must be UTT REC START END"
            ) from error
    found = []
    for key, (recording, start, end) in entries.items():
        if recording not in audio:
            raise DataError(f"{folder}: {key} lies in {recording}, which wav.scp does not name")
        place = Path(audio[recording])
        place = place if place.is_absolute() else folder / place
        text = texts.get(key)
        text = None if text is None else plain_text(text)
        found.append(Utterance(key, place, text, speakers.get(key, ""), start, end))
    return _not_empty(found, folder)


def _table(path: Path) -> list[Utterance]:
    """Common Voice: `path`, `sentence`, `client_id`; the audio is beside the table or in clips/."""
    from ...core.tables import collect, find_column, need_column, open_table, text

    sheet = open_table(path, ("path", "sentence", "text", "client_id"))
    columns = {
        "path": need_column(
            sheet,
            "audio",
            ("path", "audio", "file", "audio_filepath"),
            None,
            "a column called path",
        ),
        "text": find_column(sheet, ("sentence", "text", "transcript"), None, ""),
        "speaker": find_column(sheet, ("client_id", "speaker", "speaker_id"), None, ""),
    }
    frame = collect(sheet, [text(name).alias(key) for key, name in columns.items() if name])
    found = []
    for row in frame.iter_rows(named=True):
        name = row["path"]
        if name is None:
            raise DataError(f"{path} has a row without a path")
        clips = path.parent / "clips" / name
        place = clips if clips.is_file() else path.parent / name
        said = row.get("text")
        said = None if said is None else plain_text(said)
        found.append(Utterance(Path(name).stem, place, said, row.get("speaker") or ""))
    return _not_empty(found, path)


def _folder(folder: Path) -> list[Utterance]:
    files = find_audio(folder)
    matches = [_DIGIT_FILE.fullmatch(file.stem) for file in files]
    found = []
    for file, match in zip(files, matches, strict=True):
        beside = file.with_suffix(".txt")
        key = str(file.relative_to(folder).with_suffix(""))
        if all(matches) and match is not None:
            found.append(Utterance(key, file, _DIGITS[int(match[1])], match[2]))
        elif beside.is_file():
            said = " ".join(line for _, line in _lines(beside))
            found.append(Utterance(key, file, plain_text(said)))
        else:
            found.append(Utterance(key, file))
    return found


def _not_empty(found: list[Utterance], path: Path) -> list[Utterance]:
    if not found:
        raise DataError(f"{path} names no audio", "is it the right file?")
    twice = [key for key, count in Counter(item.key for item in found).items() if count > 1]
    if twice:
        raise DataError(f"{path} names {twice[0]} twice", "keys must be different")
    return found


def need_text(utterances: Sequence[Utterance], path: Path) -> None:
    """Raise `DataError` that counts the utterances without a transcript, and names five."""
    silent = [item.key for item in utterances if not item.text]
    if silent:
        raise DataError(
            f"{path}: {len(silent)} of {len(utterances)} recordings have no transcript: "
            f"{', '.join(silent[:5])}",
            "leave them out, or give them as --unlabelled",
        )


def need_audio(utterances: Sequence[Utterance], shortest_s: float) -> None:
    """Raise `DataError` for the first recording that is missing, broken or too short."""
    from ...core.audio import duration

    seconds: dict[Path, float] = {}
    for item in utterances:
        if item.path is None:
            continue
        if not item.path.is_file():
            raise DataError(f"{item.path} does not exist", f"it is the audio of {item.key}")
        if item.path not in seconds:
            seconds[item.path] = duration(item.path)
        end = seconds[item.path] if item.end_s is None else min(item.end_s, seconds[item.path])
        if end - item.start_s < shortest_s:
            raise DataError(
                f"{item.path}: {item.key} lasts {max(0.0, end - item.start_s):.3f} s, less than "
                f"one frame of {shortest_s:.2f} s",
                "leave it out",
            )


def shared(one: Sequence[Utterance], two: Sequence[Utterance]) -> list[tuple[str, str]]:
    """Return the keys of utterances in both sets that have the same bytes and the same section."""

    def sizes(items: Sequence[Utterance]) -> set[int]:
        return {item.path.stat().st_size for item in items if item.path and item.path.is_file()}

    # Only files of equal size can be equal: nothing else is read.
    both = sizes(one) & sizes(two)
    digests: dict[Path, str] = {}

    def name(item: Utterance) -> Any:
        if item.path is None or not item.path.is_file() or item.path.stat().st_size not in both:
            return None
        if item.path not in digests:
            digests[item.path] = sha256(item.path)
        return digests[item.path], item.start_s, item.end_s

    known = {name(item): item.key for item in one}
    known.pop(None, None)
    pairs = [(known.get(name(item)), item.key) for item in two]
    return [(a, b) for a, b in pairs if a is not None]


def fingerprint(utterances: Sequence[Utterance]) -> str:
    """Return a hash of keys and transcripts: which set a model was trained on."""
    lines = "\n".join(f"{item.key}\t{item.text}" for item in utterances)
    return hashlib.sha256(lines.encode()).hexdigest()
