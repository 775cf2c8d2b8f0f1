"""The main job: follow the objects in a video."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...core.errors import DataError, UsageError
from ...core.files import check_writable, write_bytes
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import start
from .checkpoint import Trained, open_trained
from .config import TrackConfig
from .drawing import write_annotated
from .follow import Followed, follow, unit_scores
from .formats import Rows, write_results
from .refine import interpolate, smooth
from .sequence import SequenceInfo, open_sequence


def track(
    config: TrackConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Follow the objects in a video and write them as MOTChallenge rows.

    Frame numbers are those of the source, also where only some frames were looked at. Raises
    `DataError` for frames or boxes that cannot be read, `CheckpointError` for weights that do not
    fit, `UsageError` for a class that the weights do not know.
    """
    progress = progress or Silent()
    for path in (config.out, config.video):
        if path is not None and path.name != "-":
            check_writable(path, config.overwrite)
    if config.video is not None and config.video.suffix.lower() != ".mp4":
        raise UsageError(f"--video {config.video}: must end in .mp4")
    runtime = start(run_options or RunOptions())
    info = open_sequence(config.input, progress)
    places = info.choose(config.fps, config.every, progress)
    given = None if config.det is None else _given(config, info)
    names = ["person"]
    trained = None
    if config.method == "coltrack" or given is None:
        trained = open_trained(config.weights, runtime.device, given=given is not None)
        _fits(config, trained)
        names = trained.options.class_names
    found = follow(config.method, trained, info, places, config, runtime, given, progress)
    rows = _selected(config, found.rows, names)
    if config.interpolate:
        rows = interpolate(rows, config.interpolate)
    if config.smooth:
        rows = smooth(rows, config.smooth)
    return _finish(config, info, places, rows, found, progress)


def _given(config: TrackConfig, info: SequenceInfo) -> Rows:
    assert config.det is not None
    rows = unit_scores(info.boxes(config.det))
    late = rows.frame > info.numbers[-1]
    if late.any():
        raise DataError(
            f"--det {config.det}: frame {int(rows.frame[late][0])} is beyond the "
            f"{info.numbers[-1]} frames of {info.name}",
            "are these the boxes of another video?",
        )
    return rows


def _fits(config: TrackConfig, trained: Trained) -> None:
    """Refuse weights that were not trained for what is asked of them."""
    trained.require(config.det)
    names = trained.options.class_names
    if config.category is not None and config.category not in names:
        raise UsageError(
            f"--class {config.category}: {trained.name} does not know it",
            f"it knows: {', '.join(names[:12])}",
        )
    longest = trained.options.bank
    if config.history > longest:
        raise UsageError(
            f"--history {config.history}: {trained.name} was trained with {longest}",
            f"give 1 to {longest}",
        )


def _selected(config: TrackConfig, rows: Rows, names: list[str]) -> Rows:
    """Keep one class, and boxes that are large enough."""
    kept = rows.boxes[:, 2:].prod(1) > config.min_area
    if config.category is not None:
        if config.category not in names:
            raise UsageError(f"--class {config.category}: a baseline knows no classes")
        kept &= rows.category == names.index(config.category) + 1
    return rows[kept]


def _finish(
    config: TrackConfig,
    info: SequenceInfo,
    places: list[int],
    rows: Rows,
    found: Followed,
    progress: Progress,
) -> Result:
    """Write what was asked for and describe it."""
    outputs: dict[str, Any] = {}
    data = write_results(rows)
    if config.out.name != "-":
        write_bytes(config.out, data)
        outputs["tracks"] = str(config.out)
    if config.video is not None:
        begin = time.perf_counter()
        span = info.times[places[-1]] - info.times[places[0]]
        fps = (len(places) - 1) / span if span > 0 else info.fps
        write_annotated(config.video, info, places, rows, fps, progress)
        found.seconds["draw"] = time.perf_counter() - begin
        outputs["video"] = str(config.video)
    metrics = describe(info, places, rows, found)
    shown = [
        ("frames looked at", f"{len(places):,} of {len(info):,}"),
        ("objects", f"{metrics['objects']:,}"),
        ("boxes", f"{len(rows):,}"),
        ("frames per second", f"{metrics['frames_per_second']:.1f}"),
    ]
    following = f"Next: mlkit eval track SEQUENCE --results {config.out}"
    return Result(
        inputs={"video": str(config.input), "frames": len(info), "fps": info.fps},
        outputs=outputs,
        metrics=metrics,
        tables=(Table(info.name, ("", "value"), shown),),
        notes=() if config.out.name == "-" else (following,),
        stream=data if config.out.name == "-" else None,
    )


def describe(info: SequenceInfo, places: list[int], rows: Rows, found: Followed) -> dict[str, Any]:
    """Return counts per frame, and the time that each part took."""
    numbers = [info.numbers[place] for place in places]
    counts = np.searchsorted(rows.frame, [n + 1 for n in numbers]) - np.searchsorted(
        rows.frame, numbers
    )
    total = sum(found.seconds.values())
    return {
        "frames": len(places),
        "objects": len(np.unique(rows.identity)),
        "boxes": len(rows),
        "boxes_per_frame": dict(zip(map(str, numbers), counts.tolist(), strict=True)),
        "seconds": {name: round(value, 4) for name, value in found.seconds.items()},
        "frames_per_second": len(places) / max(total, 1e-9),
    }
