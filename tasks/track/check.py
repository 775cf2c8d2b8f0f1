"""Looking through sequences before a long run, and how hard they are at low frame rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .boxes import covered, paired_iou
from .config import CheckConfig
from .formats import Rows
from .sequence import SequenceInfo, open_truths

HIDDEN = 0.3  # share of a box under another one that counts as occlusion


def check_sequences(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count what sequences hold, read their first and last frames, and tell how hard they are.

    Raises `DataError` that names the file and line of what cannot be used.
    """
    progress = progress or Silent()
    counts, hardness, metrics = [], [], {}
    with progress.task("reading", None) as task:
        for info, truth in open_truths(config.data, progress):
            if info.paths or info.video is not None:
                list(info.read([0, len(info) - 1] if len(info) > 1 else [0]))
            rows = truth.counted(None)
            found = {**_counts(info, truth, rows), "difficulty": difficulty(rows, config.intervals)}
            metrics[info.name] = found
            counts.append((info.name, *(_text(found[name]) for name in COUNTED)))
            hardness += [
                (info.name, str(k), f"{d['mean_iou']:.3f}", f"{100 * d['lost']:.1f} %")
                for k, d in found["difficulty"].items()
            ]
            task.advance()
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(
            Table("Sequences", ("sequence", *COUNTED), counts),
            Table(
                "Boxes of one object, k frames apart",
                ("sequence", "k", "mean IoU", "IoU below 0.2"),
                hardness,
            ),
        ),
    )


COUNTED = ("frames", "fps", "objects", "boxes", "ignored", "occluded")


def _counts(info: SequenceInfo, truth: Rows, rows: Rows) -> dict[str, Any]:
    return {
        "frames": len(info),
        "fps": info.fps,
        "objects": len(np.unique(rows.identity)),
        "boxes": len(rows),
        "ignored": len(truth) - len(rows),
        "occluded": occlusion(rows),
    }


def difficulty(rows: Rows, intervals: list[int]) -> dict[str, dict[str, float]]:
    """Return for each interval k the mean IoU of an object's boxes k frames apart, and how many
    pairs have less than 0.2."""
    keys = rows.frame * (rows.identity.max(initial=0) + 1) + rows.identity
    order = np.argsort(keys)
    ranked = keys[order]
    found = {}
    for k in intervals:
        wanted = keys + k * (rows.identity.max(initial=0) + 1)
        place = np.minimum(np.searchsorted(ranked, wanted), max(0, len(ranked) - 1))
        pairs = np.flatnonzero(ranked[place] == wanted) if len(ranked) else np.zeros(0, int)
        overlaps = paired_iou(rows.boxes[pairs], rows.boxes[order[place[pairs]]])
        mean = float(overlaps.mean()) if len(overlaps) else 0.0
        lost = float((overlaps < 0.2).mean()) if len(overlaps) else 0.0
        found[str(k)] = {"mean_iou": mean, "lost": lost, "pairs": len(pairs)}
    return found


def occlusion(rows: Rows) -> float:
    """Return the share of boxes of which 30 % or more lie under a box that stands lower."""
    hidden = 0
    for frame in np.unique(rows.frame):
        boxes = rows.at(int(frame)).boxes
        foot = boxes[:, 1] + boxes[:, 3]
        under = covered(boxes, boxes) * (foot[None, :] > foot[:, None])
        hidden += int((under >= HIDDEN).any(1).sum())
    return hidden / max(1, len(rows))


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
