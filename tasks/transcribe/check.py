"""Looking through a data set before a long run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...core.audio import read_audio
from ...core.errors import DataError
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig
from .readers import need_text, read_set, shared
from .tokens import LETTERS, collect


def check_speech(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count hours, speakers, transcripts, rates; broken files are failures.

    Raises `DataError` when the set cannot be read at all.
    """
    progress = progress or Silent()
    utterances = read_set(config.data)
    rates: Counter[int] = Counter()
    failures: dict[str, str] = {}
    seconds = 0.0
    with progress.task("reading", len(utterances)) as task:
        for item in utterances:
            task.advance()
            try:
                assert item.path is not None
                audio = read_audio(item.path, None, item.start_s, item.end_s)
                rates[audio.original_rate] += 1
                seconds += audio.seconds
            except DataError as error:
                failures[item.key] = error.message
    texts = [item.text for item in utterances if item.text]
    metrics: dict[str, Any] = {
        "utterances": len(utterances),
        "minutes": round(seconds / 60, 2),
        "transcribed": len(texts),
        "speakers": len({item.speaker for item in utterances if item.speaker}),
        "rates": {str(rate): count for rate, count in sorted(rates.items())},
        "broken": len(failures),
    }
    notes = []
    if texts:
        metrics |= _text_facts(config, texts)
        strange = metrics["strange"]
        if strange and config.tokens == "letters" and config.units == "char":
            notes.append(
                f"characters that are no letters: {' '.join(map(repr, strange))}; "
                "train with --tokens data, or --unknown drop"
            )
    if config.against is not None:
        both = shared(utterances, read_set(config.against))
        metrics["shared"] = len(both)
        if both:
            notes.append(f"{len(both)} recordings are also in {config.against}: {both[0][1]}, ...")
    ready = not failures and len(texts) == len(utterances)
    if ready:
        notes.append(f"mlkit train transcribe {config.data} --method supervised would work")
    elif texts and len(texts) < len(utterances):
        _, hint = _missing(config, utterances)
        notes.append(hint)
    rows = [(name, _text(value)) for name, value in metrics.items()]
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(Table(str(config.data), ("", "value"), rows),),
        notes=tuple(notes),
        failures=failures,
    )


def _missing(config: CheckConfig, utterances: list[Any]) -> tuple[str, str]:
    try:
        need_text(utterances, config.data)
    except DataError as error:
        return error.hint, error.message
    return "", ""


def _text_facts(config: CheckConfig, texts: list[str]) -> dict[str, Any]:
    found = collect(texts, config.units)
    known = set(LETTERS.symbols)
    strange = [s for s in found.symbols if config.units == "char" and s not in known]
    return {
        "tokens": len(found.symbols),
        "words": len(collect(texts, "word").symbols),
        "strange": strange[:20],
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} at {rate} Hz" for rate, count in value.items())
    if isinstance(value, list):
        return " ".join(value) or "none"
    return f"{value:,}"
