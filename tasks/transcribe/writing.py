"""Transcripts as files: text, JSON, SubRip, WebVTT, NIST's CTM, and sclite's trn."""

from __future__ import annotations

import json
from collections.abc import Callable

from .listen import Transcript, Word, lines_of


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(1000 * seconds)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def as_txt(name: str, transcript: Transcript) -> str:
    """Return the words on one line."""
    return transcript.text + "\n"


def as_json(name: str, transcript: Transcript) -> str:
    """Return one JSON document: the text, and every word with times in seconds and confidence."""
    return json.dumps(to_dict(name, transcript), indent=1, ensure_ascii=False) + "\n"


def to_dict(name: str, transcript: Transcript) -> dict[str, object]:
    """Return a transcript as plain JSON values."""
    return {
        "file": name,
        "seconds": round(transcript.seconds, 3),
        "text": transcript.text,
        "words": [
            {"word": w.text, "start": w.start_s, "end": w.end_s, "confidence": w.confidence}
            for w in transcript.words
        ],
    }


def _subtitle(line: list[Word], mark: str) -> str:
    begin, end = _clock(line[0].start_s, mark), _clock(line[-1].end_s, mark)
    return f"{begin} --> {end}\n{' '.join(word.text for word in line)}\n"


def as_srt(name: str, transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    parts = [f"{i}\n{_subtitle(line, ',')}" for i, line in enumerate(lines_of(transcript.words), 1)]
    return "\n".join(parts)


def as_vtt(name: str, transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    parts = [_subtitle(line, ".") for line in lines_of(transcript.words)]
    return "\n".join(["WEBVTT\n", *parts])


def as_ctm(name: str, transcript: Transcript) -> str:
    """Return NIST's conversation time marks: file, channel, start, duration, word, confidence."""
    stem = name.replace(" ", "_")
    return "".join(
        f"{stem} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} {w.confidence:.4f}\n"
        for w in transcript.words
    )


WRITERS: dict[str, Callable[[str, Transcript], str]] = {
    "txt": as_txt,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    "ctm": as_ctm,
}
