"""Working through many input files: which output belongs to which input, and what to do with
those that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, UsageError
from .files import check_writable
from .media import find_images
from .options import BatchOptions
from .progress import Progress

STREAM = Path("-")


@dataclass(frozen=True)
class Job:
    """One input file and where its result goes (`-` is standard input or output).

    `alone` is the only file that was asked for.
    """

    source: Path
    target: Path
    alone: bool = False


def plan_images(inputs: Sequence[Path], out: Path, options: BatchOptions) -> list[Job]:
    """Return the jobs for image files and folders of images, as `plan_files` does."""
    return plan_files(inputs, out, options, find_images)


def plan_files(
    inputs: Sequence[Path],
    out: Path,
    options: BatchOptions,
    find: Callable[[Path], list[Path]],
    suffix: str | None = None,
) -> list[Job]:
    """Return the jobs for files and for folders, in which `find` lists the files.

    One file goes to the file `out`; several, or a folder, go into the folder `out` under their
    own names, sub-folders included, with the ending `suffix` unless it is None. Raises
    `UsageError` when that is impossible, `DataError` when an output exists or a folder holds no
    such files.
    """

    def rename(path: Path) -> Path:
        return path if suffix is None else path.with_suffix(suffix)

    folders = [path for path in inputs if path.is_dir()]
    if len(inputs) == 1 and inputs[0] != STREAM and not inputs[0].exists():
        raise DataError(f"{inputs[0]} does not exist", "give files, or folders of them")
    if len(inputs) == 1 and not folders:
        target = out / rename(Path(inputs[0].name)) if out.is_dir() and inputs[0] != STREAM else out
        jobs = [Job(inputs[0], target, alone=True)]
    else:
        if STREAM in inputs or out == STREAM:
            raise UsageError("- stands for one file", "give a folder with --out for several")
        if out.is_file():
            raise UsageError(f"--out {out}: is a file", "give a folder for several inputs")
        jobs = []
        for path in inputs:
            found = find(path) if path in folders else [path]
            base = path if path in folders else path.parent
            jobs += [Job(file, out / rename(file.relative_to(base))) for file in found]
    _refuse_clashes(jobs)
    if options.skip_existing:
        jobs = [job for job in jobs if not job.target.exists()]
    for job in jobs:
        if job.target != STREAM:
            check_writable(job.target, options.overwrite)
    return jobs


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    owners: dict[Path, Path] = {}
    for job in jobs:
        if job.target in owners:
            raise UsageError(
                f"{owners[job.target]} and {job.source} would both become {job.target}",
                "run them one after the other, with different --out",
            )
        if job.source != STREAM and job.target.exists() and job.target.samefile(job.source):
            raise UsageError(
                f"{job.source} would be replaced by its result", "choose another --out"
            )
        owners[job.target] = job.source


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    options: BatchOptions,
    progress: Progress,
    title: str,
) -> dict[str, str]:
    """Do every job and return the reasons of those that failed, by input.

    A `DataError` skips the file with a warning; with `--strict`, or for a file that was asked
    for alone, it is raised.
    """
    failures: dict[str, str] = {}
    with progress.task(title, len(jobs)) as task:
        for job in jobs:
            try:
                work(job)
            except DataError as error:
                if options.strict or job.alone:
                    raise
                failures[str(job.source)] = error.message
                progress.warn(f"skipped: {error.message}")
            task.advance(1, job.source.name)
    return failures
