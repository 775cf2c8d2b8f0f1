"""Looking through a log before a long run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig, SplitOptions
from .data import Log, read_items, read_log
from .split import Split, filter_rare, make_split


def check_log(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count what is in a log, what training would drop, and what the items file covers.

    Raises `DataError` when training would have nothing to work on.
    """
    progress = progress or Silent()
    with progress.task("reading", None):
        log = read_log(config.log, config)
    metrics = describe(log)
    kept, users = filter_rare(log, config.min_count)
    kept_items = int(torch.bincount(kept.items.long()).count_nonzero())
    metrics["kept"] = {"users": len(users), "items": kept_items, "interactions": len(kept.items)}
    rows = [(name.replace("_", " "), _text(value)) for name, value in metrics.items()]
    notes = [f"mlkit train recommend {config.log} would work"]
    if metrics["median_length"] < 10:
        notes.append("short histories: try --interests 1 beside the default 4")
    if config.items is not None:
        split = make_split(log, SplitOptions(min_count=config.min_count))
        coverage = _coverage(config, split)
        metrics |= coverage
        rows += [(name.replace("_", " "), _text(value)) for name, value in coverage.items()]
    table = Table(str(config.log), ("", "value"), rows)
    return Result(
        inputs={"log": str(config.log)}, metrics=metrics, tables=(table,), notes=tuple(notes)
    )


def describe(log: Log) -> dict[str, Any]:
    """Return counts, the median and the largest length, and the share of repeated items."""
    sequences = log.sequences
    owners = torch.arange(len(sequences)).repeat_interleave(sequences.lengths)
    keys = (owners * len(log.items) + sequences.items).numpy()
    lengths = sequences.lengths.numpy()
    return {
        "users": len(sequences),
        "items": len(log.items),
        "interactions": len(keys),
        "median_length": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "repeats": 1 - len(np.unique(keys)) / len(keys),
    }


def _coverage(config: CheckConfig, split: Split) -> dict[str, Any]:
    assert config.items is not None
    items = read_items(config.items, split.names, config)
    found: dict[str, Any] = {"titles": items.titles is not None}
    if items.labels is not None:
        labelled = items.labels[1:] != ""
        found["items_with_category"] = int(labelled.sum()) / len(items)
        found["categories"] = items.labels[1:].filter(labelled).n_unique()
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
