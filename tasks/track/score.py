"""Scoring trackers, or result files, at several frame rates."""

from __future__ import annotations

from typing import Any, cast

from ...core.errors import DataError, UsageError
from ...core.files import check_writable
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from .checkpoint import Trained, open_trained
from .config import EvalConfig, Method
from .drawing import plot_rates
from .follow import Followed, follow, unit_scores
from .formats import Rows, read_results
from .metrics import Scores, score_sequence
from .sequence import SequenceInfo, open_truths

COLUMNS = {
    "hota": ("HOTA", "DetA", "AssA"),
    "clear": ("MOTA", "FP", "FN", "IDSW"),
    "identity": ("IDF1",),
}  # of the table; JSON has them all
COUNTS = ("IDSW", "FP", "FN")

Truths = list[tuple[SequenceInfo, Rows]]


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score result files, or run trackers and score them, on every k-th frame.

    Frames 1, 1 + k, 1 + 2k, ... of results and ground truth count (the official protocol of low
    frame rates). Raises `DataError` for bad files, and for results beyond a sequence's end.
    """
    progress = progress or Silent()
    if config.plot is not None:
        check_writable(config.plot)
    truths = open_truths(config.data, progress)
    runtime = start(run_options or RunOptions())
    stored = _stored(config, truths)
    trained = None
    if config.results is None and ("coltrack" in config.trackers or config.det is None):
        trained = open_trained(config.weights, runtime.device, given=config.det is not None)
        trained.require(config.det)
    trackers = config.trackers if config.results is None else [config.results.name]
    table: dict[str, dict[int, dict[str, Scores]]] = {name: {} for name in trackers}
    for name in trackers:
        for every in config.intervals:
            scores = {}
            for info, truth in truths:
                places = _places(config, info, every)
                if config.results is not None:
                    done = Followed(stored[info.name], [info.numbers[p] for p in places], {})
                else:
                    done = _follow(name, config, info, truth, places, trained, runtime, progress)
                scores[info.name] = score_sequence(truth, done.rows, done.frames)
            table[name][every] = scores
    return _result(config, truths, table)


def _stored(config: EvalConfig, truths: Truths) -> dict[str, Rows]:
    """Return the results of all sequences. Raises `DataError` when one is missing or too long."""
    found: dict[str, Rows] = {}
    for info, _ in truths if config.results is not None else ():
        assert config.results is not None
        path = config.results / f"{info.name}.txt" if config.results.is_dir() else config.results
        if config.results.is_file() and len(truths) > 1:
            raise UsageError(
                f"--results {config.results}: is one file for {len(truths)} sequences",
                "give the folder with SEQUENCE.txt files",
            )
        rows = read_results(path)
        if len(rows) and int(rows.frame.max()) > info.numbers[-1]:
            raise DataError(
                f"{path}: frame {int(rows.frame.max())} is outside of {info.name}, "
                f"which ends at {info.numbers[-1]}",
                "are these the results of another video?",
            )
        found[info.name] = rows
    return found


def _places(config: EvalConfig, info: SequenceInfo, every: int) -> list[int]:
    last = min(config.last or info.numbers[-1], info.numbers[-1])
    inside = [i for i, number in enumerate(info.numbers) if config.first <= number <= last]
    if not inside:
        raise DataError(
            f"{info.name} has no frame between {config.first} and {last}", "check --first, --last"
        )
    return inside[::every]


def _follow(
    name: str,
    config: EvalConfig,
    info: SequenceInfo,
    truth: Rows,
    places: list[int],
    trained: Trained | None,
    runtime: Runtime,
    progress: Progress,
) -> Followed:
    given = None
    if config.det is not None:
        given = truth.counted() if config.det == "gt" else unit_scores(info.boxes(config.det))
    return follow(cast(Method, name), trained, info, places, config, runtime, given, progress)


def _result(
    config: EvalConfig,
    truths: Truths,
    table: dict[str, dict[int, dict[str, Scores]]],
) -> Result:
    columns = [c for part in config.metrics.split(",") for c in COLUMNS[part]]
    rows: list[tuple[str, ...]] = []
    several = len(truths) > 1
    where = "Scores" if several else truths[0][0].name
    header = ("tracker", "k", *(["sequence"] if several else []), *columns)
    metrics: dict[str, Any] = {}
    for name, by_interval in table.items():
        for every, scores in by_interval.items():
            total = sum(scores.values(), Scores())
            parts = {**scores, "all": total} if len(scores) > 1 else scores
            entry: dict[str, Any] = {part: value.summary() for part, value in parts.items()}
            for part, summary in entry.items():
                values = [_text(column, summary[column]) for column in columns]
                rows.append((name, str(every), *([part] if several else []), *values))
            metrics.setdefault(name, {})[str(every)] = entry
    outputs = {}
    if config.plot is not None:
        plot_rates(config.plot, _curves(truths, table))
        outputs["plot"] = str(config.plot)
    return Result(
        inputs={"data": str(config.data), "sequences": [info.name for info, _ in truths]},
        outputs=outputs,
        metrics=metrics,
        tables=(Table(f"{where} on every k-th frame, %", header, rows),),
    )


def _text(column: str, value: float) -> str:
    return f"{value:.0f}" if column in COUNTS else f"{value:.1f}"


def _curves(
    truths: Truths, table: dict[str, dict[int, dict[str, Scores]]]
) -> dict[str, dict[float, dict[str, float]]]:
    """Return the combined scores by frames per second (the mean rate of the sequences)."""
    fps = sum(info.fps for info, _ in truths) / len(truths)
    return {
        name: {
            fps / every: sum(scores.values(), Scores()).summary()
            for every, scores in by_interval.items()
        }
        for name, by_interval in table.items()
    }
