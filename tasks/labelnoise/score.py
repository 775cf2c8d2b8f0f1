"""Scores: a network on true labels, with the long tail apart; a report against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import DataError
from ...core.labelled import LABEL_NAMES, PATH_NAMES
from ...core.metrics import Proportion
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.tables import Sheet, collect, need_column, open_table, text
from .checkpoint import open_trained
from .config import EvalConfig
from .data import Images, normalise, open_images
from .model import Pair
from .scoring import EVAL_BATCH

Array = NDArray[Any]
SHOTS = ("many", "medium", "few")
TRUE_NAMES = ("true_label", "truth", *LABEL_NAMES)


def evaluate(
    config: EvalConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score a network (`weights`) or a report (`truth`)."""
    if config.truth is not None:
        return score_report(config.data, config.truth)
    assert config.weights is not None
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    trained = open_trained(config.weights, runtime.device)
    images = open_images(config.data, trained.options.image_size, progress, trained.classes)
    predicted = predict(trained.model, images, runtime)
    found = accuracies(predicted, images, trained.counts)
    hits = int((predicted == images.labels).sum())
    rows = [(name, f"{100 * value:.1f}") for name, value in found.items()]
    recall = class_recall(predicted, images)
    size = images.counts.tolist()
    each = [
        (name, f"{trained.counts[k]:,}", f"{size[k]:,}", f"{100 * recall[k]:.1f}")
        for k, name in enumerate(images.classes)
        if size[k]
    ]
    return Result(
        inputs={"data": str(config.data), "weights": str(config.weights)},
        metrics={**found, "recall": dict(zip(images.classes, _plain(recall), strict=True))},
        tables=(
            Table("Accuracy, %", ("", "value"), rows),
            Table("Classes", ("class", "trained on", "images", "recall, %"), each),
        ),
        notes=(f"top-1 {Proportion(hits, len(images))}",),
        failures=images.broken,
    )


def _plain(recall: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in recall]


@torch.inference_mode()
def predict(model: Pair, images: Images, runtime: Runtime) -> Tensor:
    """Return the class (N,) with the largest sum of both networks' logits."""
    parts = []
    for levels in images.levels.split(EVAL_BATCH):
        with runtime.autocast():
            parts.append(model(normalise(levels.to(runtime.device))).argmax(1).cpu())
    return torch.cat(parts)


def class_recall(predicted: Tensor, images: Images) -> Array:
    """Return the recall (K,) of every class, NaN for those without images."""
    labels = images.labels
    hits = torch.bincount(labels[predicted == labels], minlength=len(images.classes))
    size = images.counts.double()
    return (hits / torch.where(size > 0, size, torch.nan)).numpy()


def accuracies(predicted: Tensor, images: Images, counts: Sequence[int]) -> dict[str, float]:
    """Return top-1, balanced accuracy (mean recall), and that of many-, medium-, few-shot classes.

    These are the thirds of the classes by training images `counts` (K,), largest first.
    """
    recall = class_recall(predicted, images)
    found = {
        "top1": float((predicted == images.labels).float().mean()),
        "balanced": float(np.nanmean(recall)),
    }
    order = np.argsort(-np.asarray(counts), kind="stable")
    for name, part in zip(SHOTS, np.array_split(order, 3), strict=True):
        if len(part) and not np.isnan(recall[part]).all():
            found[name] = float(np.nanmean(recall[part]))
    return found


# --- a report ---


def score_report(path: Path, truth: Path) -> Result:
    """Compare a report of `mlkit labelnoise` with true labels, joined by path.

    Raises `DataError` when a path of the report has no true label.
    """
    frame = _joined(path, truth)
    wrong = (frame["given_label"] != frame["true_label"]).to_numpy()
    flagged = (frame["is_issue"] == "true").to_numpy()
    doubt = frame["doubt"].cast(pl.Float64).to_numpy()
    suggested = (frame["suggested_label"] == frame["true_label"]).fill_null(False).to_numpy()
    metrics = detection(wrong, flagged, doubt)
    both = flagged & wrong
    metrics["suggestion_right"] = float(suggested[both].mean()) if both.any() else None
    rows = [(name, "-" if v is None else f"{v:.4g}") for name, v in metrics.items()]
    classes = frame["given_label"].to_numpy()
    each = []
    for name in sorted(set(classes)):
        part = classes == name
        found = detection(wrong[part], flagged[part], doubt[part])
        values = [found[key] for key in ("precision", "recall", "AUROC")]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        each.append((name, f"{part.sum():,}", f"{wrong[part].sum():,}", f"{flagged[part].sum():,}",
                     *shown))  # fmt: skip
    heads = ("labelled", "images", "wrong", "flagged", "precision", "recall", "AUROC")
    return Result(
        inputs={"report": str(path), "truth": str(truth)},
        metrics=metrics,
        tables=(Table("Report", ("", "value"), rows), Table("Classes", heads, each)),
    )


def detection(wrong: Array, flagged: Array, doubt: Array) -> dict[str, Any]:
    """Return precision and recall of flags, AUROC and AP of doubts; None where not defined.

    "precision@k" is that of the k most doubtful, k the number of wrong labels.
    """
    hits, k = int((wrong & flagged).sum()), int(wrong.sum())
    top = np.argsort(-doubt, kind="stable")[:k]
    return {
        "samples": len(wrong),
        "wrong": k,
        "flagged": int(flagged.sum()),
        "precision": hits / int(flagged.sum()) if flagged.any() else None,
        "recall": hits / k if k else None,
        "AUROC": auroc(wrong, doubt),
        "AP": average_precision(wrong, doubt),
        "precision@k": float(wrong[top].mean()) if k else None,
    }


def auroc(positive: Array, score: Array) -> float | None:
    """Return the chance that a positive scores above a negative, ties counting half."""
    from scipy.stats import rankdata

    count, rest = int(positive.sum()), int((~positive).sum())
    if count == 0 or rest == 0:
        return None
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * rest))


def average_precision(positive: Array, score: Array) -> float | None:
    """Return sum_n (R_n - R_(n-1)) P_n over the distinct thresholds; None without positives."""
    if not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    hits, ranked = np.cumsum(positive[order]), score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of samples with one score the last counts
    precision = hits[last] / (np.flatnonzero(last) + 1)
    return float((np.diff(hits[last], prepend=0) / positive.sum() * precision).sum())


def _joined(path: Path, truth: Path) -> pl.DataFrame:
    sheet = open_table(path, ("given_label",))
    columns = ["path", "given_label", "suggested_label", "doubt", "is_issue"]
    lacking = [name for name in columns if name not in sheet.columns]
    if lacking:
        raise DataError(f"{path} has no column {lacking[0]}", "give a report of mlkit labelnoise")
    report = collect(sheet, [text(name).alias(name) for name in columns])
    report = report.with_columns(_place(report, path).alias("path"))
    known = open_table(truth, (*PATH_NAMES, *TRUE_NAMES))
    joined = report.join(_truth(known, truth), on="path", how="left")
    if (missing := joined["true_label"].null_count()) > 0:
        first = joined.filter(pl.col("true_label").is_null())["path"][0]
        raise DataError(f"{truth} tells nothing of {missing} paths of {path}, the first: {first}")
    return joined


def _truth(sheet: Sheet, path: Path) -> pl.DataFrame:
    names = (
        need_column(sheet, "path", PATH_NAMES, None, "a header 'path,true_label'"),
        need_column(sheet, "true label", TRUE_NAMES, None, "a header 'path,true_label'"),
    )
    frame = collect(sheet, [text(names[0]).alias("path"), text(names[1]).alias("true_label")])
    return frame.with_columns(_place(frame, path).alias("path")).unique("path", keep="first")


def _place(frame: pl.DataFrame, table: Path) -> pl.Series:
    """Return paths so that both tables agree: where a file stands, if there is one.

    A report names files as the command line did, a table of truth relative to itself; numbers
    of rows stay numbers.
    """
    places = []
    for name in frame["path"].to_list():
        beside = table.parent / name
        file = beside if beside.is_file() else Path(name)
        places.append(str(file.resolve()) if file.is_file() else name)
    return pl.Series(places, dtype=pl.String)
