"""Scores: what features are worth to a linear layer, neighbours, retrieval; or a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import DataError, UsageError
from ...core.metrics import Proportion
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from . import probe
from .checkpoint import Trained
from .config import EvalConfig
from .features import Described, describe_videos, open_for, unpack
from .listing import VideoSet, class_numbers, open_set


def evaluate(
    config: EvalConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score an encoder by what its features are worth, or a classifier by what it gets right.

    Raises `DataError` for unusable data or a single class, `CheckpointError` for weights that do
    not fit, `UsageError` for a column that is not there.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    if config.data.suffix == ".npz" and config.data.is_file():
        return _of_features(config, runtime)
    trained = open_for(config, runtime)
    videos = open_set(config.data, config.label_column)
    if trained.classes:
        return _of_classifier(config, trained, videos, runtime, progress)
    found = describe_videos(trained, videos, config, runtime, progress)
    name = "random" if config.weights is None else str(config.weights)
    scored = {name: scores(found, config, runtime)}
    if config.compare is not None:
        other = open_for(config, runtime, config.compare)
        others = describe_videos(other, videos, config, runtime, progress)
        scored[str(config.compare)] = scores(others, config, runtime)
    return _result(config, found, scored)


def _of_features(config: EvalConfig, runtime: Runtime) -> Result:
    if config.weights is not None or config.random_init or config.compare is not None:
        raise UsageError(f"{config.data} holds features: no weights are needed to score them")
    found = unpack(config.data)
    return _result(config, found, {str(config.data): scores(found, config, runtime)})


def scores(found: Described, config: EvalConfig, runtime: Runtime) -> dict[str, Any]:
    """Return every score that the columns allow, as plain numbers.

    Labels of which none occurs twice only name the videos: nothing can be learnt from them.
    """
    features, where = found.features, str(config.data)
    measured: dict[str, Any] = {}
    if found.views.shape[1] > 1:
        measured["same video"] = _found(probe.same_video(found.views))
    groups = _column(found, config.group_column, "--group-column", where)
    if groups is not None and _repeats(groups):
        measured["same group"] = _found(probe.same_group(features, groups))
    labels = _column(found, config.label_column or _there(found, "label"), "--label-column", where)
    if labels is None or not _repeats(labels):
        if not measured:
            what = "no labels" if labels is None else "no label twice"
            raise DataError(f"{where} has {what}, and one view says nothing", "raise --views")
        return measured
    numbers, classes = class_numbers(labels, where)
    folds = _folds(found, config, numbers, groups, runtime.seed)
    measured["linear"] = _proportion(probe.linear_probe(features, numbers, folds))
    measured["knn"] = _proportion(probe.knn(features, numbers, folds, config.knn))
    measured["same label"] = _found(probe.same_group(features, labels))
    measured["classes"] = len(classes)
    return measured


def _repeats(values: Sequence[str]) -> bool:
    return len(set(values)) < len(values)


def _there(found: Described, name: str) -> str | None:
    return name if name in found.columns else None


def _column(found: Described, name: str | None, flag: str, where: str) -> tuple[str, ...] | None:
    if name is None:
        return None
    if name not in found.columns:
        # The column of labels goes by its role, whatever the list calls it.
        if flag == "--label-column" and "label" in found.columns:
            return found.columns["label"]
        raise UsageError(
            f"{flag} {name}: {where} has no such column",
            f"it has: {', '.join(found.columns) or 'none'}",
        )
    return found.columns[name]


def _folds(
    found: Described,
    config: EvalConfig,
    numbers: Sequence[int],
    groups: tuple[str, ...] | None,
    seed: int,
) -> list[probe.Fold]:
    split = _column(
        found, config.split_column or _there(found, "split"), "--split-column", str(config.data)
    )
    if split is not None:
        parts = [np.flatnonzero(np.array(split) == name) for name in ("train", "test")]
        if not len(parts[0]) or not len(parts[1]):
            raise DataError(
                f"{config.data}: the split has {len(parts[0])} train and {len(parts[1])} test",
                "its column must hold the words train and test",
            )
        return [(parts[0], parts[1])]
    if groups is not None:
        return probe.folds_by_group(groups)
    return probe.folds_at_random(numbers, seed)


def _proportion(found: Proportion) -> dict[str, Any]:
    return {"value": found.value, "interval": list(found.interval), "of": found.total}


def _found(found: probe.Found) -> dict[str, Any]:
    return {**_proportion(found.rank1), "map": found.mean_ap}


_TITLES = {
    "linear": "linear probe, accuracy",
    "knn": "nearest neighbours, accuracy",
    "same label": "nearest video has the same label",
    "same group": "nearest video is of the same group",
    "same video": "last clip finds its video's first",
}


def _result(config: EvalConfig, found: Described, scored: dict[str, dict[str, Any]]) -> Result:
    rows = []
    for key, title in _TITLES.items():
        cells = [_cell(values[key]) for values in scored.values() if key in values]
        if cells:
            rows.append((title, *cells))
    names = [Path(name).parent.name or name for name in scored]
    if len(set(names)) < len(names):
        names = list(scored)
    metrics: dict[str, Any] = {"videos": len(found.names)}
    metrics |= next(iter(scored.values())) if len(scored) == 1 else {"scores": scored}
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(Table(f"{len(found.names):,} videos, %", ("", *names), rows),),
        failures=found.broken,
    )


def _cell(values: dict[str, Any]) -> str:
    low, high = (100 * end for end in values["interval"])
    precision = f", mAP {100 * values['map']:.1f}" if "map" in values else ""
    return f"{100 * values['value']:.1f} [{low:.1f}, {high:.1f}]{precision}"


def _of_classifier(
    config: EvalConfig,
    trained: Trained,
    videos: VideoSet,
    runtime: Runtime,
    progress: Progress,
) -> Result:
    """Score a fine-tuned classifier: softmax averaged over the views of each video."""
    if videos.labels is None:
        raise DataError(f"{config.data} has no labels", "give class folders, or a list")
    unknown = sorted(set(videos.labels) - set(trained.classes))
    if unknown:
        raise DataError(
            f"{config.data}: class {unknown[0]} is unknown to {config.weights}",
            f"it knows: {', '.join(trained.classes[:12])}",
        )
    found = describe_videos(trained, videos, config, runtime, progress)
    probs = found.views.softmax(2).mean(1)
    truth = torch.tensor([trained.classes.index(label) for label in found.columns["label"]])
    right = probs.argmax(1) == truth
    top1 = Proportion(int(right.sum()), len(right))
    recall = [float(right[truth == i].float().mean()) for i in truth.unique().tolist()]
    metrics: dict[str, Any] = {
        "videos": len(right),
        "top1": _proportion(top1),
        "balanced": float(np.mean(recall)),
    }
    rows = [("top-1", str(top1)), ("mean over classes", f"{100 * metrics['balanced']:.1f} %")]
    if len(trained.classes) > 5:
        top5 = (probs.topk(5, 1).indices == truth[:, None]).any(1)
        metrics["top5"] = float(top5.float().mean())
        rows.append(("top-5", f"{100 * metrics['top5']:.1f} %"))
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(Table(f"{len(right):,} videos", ("", "value"), rows),),
        failures=found.broken,
    )
