"""A small model for a log that comes without weights, kept beside the log for the next time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...core.errors import DataError
from ...core.files import sha256
from ...core.progress import Progress
from ...core.runtime import Runtime
from .checkpoint import Trained, open_trained, save_model
from .config import (
    ColumnOptions,
    LossOptions,
    ModelOptions,
    RecommendTrainOptions,
    SplitOptions,
)
from .data import Items, Log, read_items
from .fit import PRESETS, fit_model
from .split import make_split

SPLIT = SplitOptions(test_share=0.0)
OPTIONS = RecommendTrainOptions(**PRESETS["quick"])
# Median interactions from which the last 50 are looked at. On shorter histories the readout
# "max" is more accurate; on longer ones it makes all interests the same (README).
LONG_HISTORY = 15


def cache_path(path: Path, log: Log, seed: int, columns: ColumnOptions, items: Path | None) -> Path:
    """Return where the small model of a log is kept: its name holds a hash of all it depends on."""
    parts = {
        "log": sha256(path),
        "items": sha256(items) if items is not None else None,
        "columns": columns.model_dump(include=set(ColumnOptions.model_fields)),
        "options": [options.to_dict() for options in _choose(log)],
        "training": OPTIONS.to_dict(),
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return path.with_name(f"{path.name}.{digest[:12]}.safetensors")


def _choose(log: Log) -> tuple[ModelOptions, LossOptions]:
    """Return the network and the loss that suit the length of the log's histories."""
    if float(log.sequences.lengths.double().median()) > LONG_HISTORY:
        return ModelOptions(max_history=50), LossOptions()
    return ModelOptions(max_history=20), LossOptions(readout="max")


def small_model(
    path: Path,
    log: Log,
    columns: ColumnOptions,
    items_file: Path | None,
    runtime: Runtime,
    progress: Progress,
) -> Trained:
    """Return the small model of this log: from its cache, or trained now and kept there.

    A folder that cannot be written costs a warning, and training again the next time.
    """
    from_stdin = str(path) == "-"
    place = None if from_stdin else cache_path(path, log, runtime.seed, columns, items_file)
    if place is not None and place.exists():
        progress.info(f"using {place}")
        return open_trained(place, runtime.device)
    kept = f", to be kept as {place}" if place is not None else ""
    progress.warn(f"no --weights: training a small model on {log.name} first{kept}")
    split = make_split(log, SPLIT)
    items = Items(split.names)
    if items_file is not None:
        items = read_items(items_file, split.names, columns)
    options, loss = _choose(log)
    model, fitted = fit_model(
        split, options, loss, OPTIONS, runtime, progress=progress, title="small model"
    )
    content = {
        "model": options.to_dict(),
        "split": SPLIT.to_dict(),
        "objective": loss.to_dict(),
        "training": OPTIONS.to_dict(),
        "log": "" if from_stdin else sha256(path),
        "metrics": fitted.history[-1] if fitted.history else {},
    }
    if place is not None:
        try:
            save_model(place, model, items, split.counts, content)
        except DataError as error:
            progress.warn(f"the small model was not kept: {error.message}")
    return Trained(log.name, model, options, items, split.counts, content)
