"""Evaluation: word and character error rates with substitutions, deletions, insertions."""

from __future__ import annotations

from typing import Any

from ...core.audio import read_audio
from ...core.edits import Errors, count_errors
from ...core.files import check_writable, write_text
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import start
from .checkpoint import open_trained
from .config import EvalConfig
from .data import Utterance
from .listen import Listener
from .readers import need_audio, need_text, read_set
from .tokens import plain_text


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score a model on transcribed audio, over all and per speaker.

    Both sides are compared in lower case with single blanks; a rate is the sum of errors over the
    sum of reference words. Raises `DataError` when the set cannot be used.
    """
    progress = progress or Silent()
    if config.trn is not None:
        check_writable(config.trn)
    utterances = read_set(config.data)
    need_text(utterances, config.data)
    need_audio(utterances, 0.04)
    runtime = start(run_options or RunOptions())
    trained = open_trained(config.weights, runtime.device)
    listener = Listener(trained, config)
    rows = []
    with progress.task("listening", len(utterances)) as task:
        for item in utterances:
            assert item.path is not None
            audio = read_audio(item.path, trained.model.rate, item.start_s, item.end_s)
            rows.append((item, listener.listen(audio.samples, item.key).text))
            task.advance()
    if config.trn is not None:
        write_text(config.trn, "".join(f"{text} ({item.key})\n" for item, text in rows))
    words, letters, speakers = add_up(rows)
    return Result(
        inputs={"data": str(config.data), "utterances": len(rows), "weights": trained.name},
        outputs={} if config.trn is None else {"transcripts": str(config.trn)},
        metrics={
            "wer": _numbers(words),
            "cer": _numbers(letters),
            "speakers": {name: _numbers(found) for name, found in sorted(speakers.items())},
            "exact": sum(text == plain_text(item.text or "") for item, text in rows) / len(rows),
        },
        tables=(_table(words, letters, speakers),),
        notes=(f"{len(rows):,} utterances; {trained.describe()}",),
    )


def add_up(rows: list[tuple[Utterance, str]]) -> tuple[Errors, Errors, dict[str, Errors]]:
    """Return the word errors, the character errors, and the word errors per speaker."""
    words, letters = Errors(), Errors()
    speakers: dict[str, Errors] = {}
    for item, text in rows:
        reference = plain_text(item.text or "")
        found = count_errors(reference.split(), text.split())
        words += found
        letters += count_errors(reference, text)
        if item.speaker:
            speakers[item.speaker] = speakers.get(item.speaker, Errors()) + found
    return words, letters, speakers


def _numbers(errors: Errors) -> dict[str, Any]:
    return {
        "rate": errors.rate,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "reference": errors.length,
    }


def _row(name: str, errors: Errors) -> tuple[str, ...]:
    counts = (errors.substitutions, errors.deletions, errors.insertions, errors.length)
    return (name, f"{100 * errors.rate:.2f}", *(f"{count:,}" for count in counts))


def _table(words: Errors, letters: Errors, speakers: dict[str, Errors]) -> Table:
    rows = [_row("WER", words), _row("CER", letters)]
    rows += [_row(f"WER of {name}", found) for name, found in sorted(speakers.items())]
    heads = ("", "%", "substituted", "deleted", "inserted", "of")
    return Table("Errors", heads, rows)
