"""The main job: audio files to text, subtitles, or words with times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...core.audio import AUDIO_SUFFIXES, find_audio, read_audio
from ...core.batch import STREAM, Job, plan_files, run_jobs
from ...core.errors import DataError, UsageError
from ...core.files import write_text
from ...core.options import BatchOptions, RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import memory_errors, start
from .checkpoint import open_trained
from .config import FORMATS, TranscribeConfig
from .listen import Listener, Transcript
from .writing import WRITERS, to_dict


def transcribe(
    config: TranscribeConfig,
    batch: BatchOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Transcribe audio files, or all of a folder.

    Raises `DataError` for a file that is asked for alone and cannot be used; among several such
    files are skipped and listed in the result.
    """
    progress, batch = progress or Silent(), batch or BatchOptions()
    kind = chosen_format(config)
    jobs = _plan(config, batch, kind)
    runtime = start(run_options or RunOptions())
    trained = open_trained(config.weights, runtime.device)
    listener = Listener(trained, config)
    found: dict[Path, Transcript] = {}
    begin = time.monotonic()

    def work(job: Job) -> None:
        audio = read_audio(job.source, trained.model.rate)
        if audio.original_rate != audio.rate:
            progress.info(f"{job.source}: {audio.original_rate} Hz, resampled to {audio.rate}")
        transcript = listener.listen(audio.samples, str(job.source))
        if config.out is not None and config.out != STREAM:
            write_text(job.target, WRITERS[kind](_name(job.source), transcript))
        found[job.source] = transcript

    with memory_errors("try a shorter --window, or a smaller --batch-seconds"):
        failures = run_jobs(jobs, work, batch, progress, "transcribing")
    seconds = time.monotonic() - begin
    if config.out == STREAM:
        text = "".join(WRITERS[kind](_name(path), found[path]) for path in found)
        return Result(stream=text.encode(), notes=(trained.describe(),), failures=failures)
    written = {str(job.source): str(job.target) for job in jobs if job.source in found}
    return Result(
        inputs={"files": [str(job.source) for job in jobs], "weights": trained.name},
        outputs=written if config.out is not None else {},
        metrics=_metrics(found, seconds),
        tables=() if config.out is not None else (_table(found),),
        notes=(trained.describe(), *_speed(found, seconds)),
        failures=failures,
    )


def chosen_format(config: TranscribeConfig) -> str:
    """Return the format: that of --format, or the ending of --out. Raises `UsageError`."""
    ending = "" if config.out is None else config.out.suffix.removeprefix(".")
    if config.format is not None:
        if config.out is None:
            raise UsageError(
                f"--format {config.format} needs a place", "add -o FILE, or -o - to print it"
            )
        if ending in FORMATS and ending != config.format:
            raise UsageError(
                f"--out {config.out} and --format {config.format} disagree", "give one of them"
            )
        return config.format
    if ending and ending not in FORMATS and config.out is not None and not config.out.is_dir():
        raise UsageError(f"--out {config.out}: must end in .{', .'.join(FORMATS)}")
    return ending if ending in FORMATS else "txt"


def _plan(config: TranscribeConfig, batch: BatchOptions, kind: str) -> list[Job]:
    if config.out is not None:
        return plan_files(config.audio, config.out, batch, find_audio, f".{kind}")
    if STREAM in config.audio and len(config.audio) > 1:
        raise UsageError("- stands for one file", "give - alone")
    files: list[Path] = []
    for path in config.audio:
        files += find_audio(path) if path.is_dir() else [path]
    if len(files) == 1 and files[0] != STREAM and not files[0].exists():
        raise DataError(
            f"{files[0]} does not exist", f"give audio files: {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return [Job(path, STREAM, alone=len(files) == 1) for path in files]


def _name(path: Path) -> str:
    return "stdin" if path == STREAM else path.stem


def _metrics(found: dict[Path, Transcript], seconds: float) -> dict[str, Any]:
    heard = sum(transcript.seconds for transcript in found.values())
    return {
        "transcripts": [to_dict(str(path), transcript) for path, transcript in found.items()],
        "audio_seconds": round(heard, 3),
        "real_time_factor": round(seconds / heard, 4) if heard else 0.0,
    }


def _table(found: dict[Path, Transcript]) -> Table:
    rows = [(str(path), transcript.text or "(nothing)") for path, transcript in found.items()]
    return Table("Transcripts", ("file", "text"), rows)


def _speed(found: dict[Path, Transcript], seconds: float) -> tuple[str, ...]:
    heard = sum(transcript.seconds for transcript in found.values())
    if not heard:
        return ()
    return (f"{heard:.1f} s of audio in {seconds:.1f} s; words with times: -f json -o -",)
