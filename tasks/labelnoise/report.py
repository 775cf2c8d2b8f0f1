"""The report: one row per sample, most doubtful first; per class a summary; a page to look at."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.files import replacing, write_text
from ...core.report import table_html, write_page
from ...core.results import Table
from .guard import Verdict
from .selection import Selection
from .signals import Signals

Array = NDArray[Any]
SHOWN, THUMBNAIL = 200, 112

_STYLE = """<style>
.grid { display: flex; flex-wrap: wrap; gap: .8rem } .grid figure { margin: 0; width: 9rem }
.grid img { width: 7rem; height: 7rem; object-fit: contain; background: #eef2f5 }
.grid figcaption { font-size: .8rem; line-height: 1.25; overflow-wrap: anywhere }
.grid b { color: #a3341f }
</style>"""


def report_frame(
    names: Sequence[str],
    classes: Sequence[str],
    signals: Signals,
    selection: Selection,
    verdict: Verdict,
) -> pl.DataFrame:
    """Return the rows, ranked: flagged first, then by `doubt`, ties by the larger margin.

    `suggested_label` is the most probable class once the estimated turning of labels is undone,
    empty where that is the label given.
    """
    label = np.array(classes, dtype=object)
    suggested = np.where(verdict.suggested == signals.labels, "", label[verdict.suggested])
    frame = pl.DataFrame(
        {
            "path": list(names),
            "given_label": label[signals.labels].tolist(),
            "suggested_label": suggested.tolist(),
            "doubt": verdict.doubt,
            "noise_prob": verdict.noise,
            "is_issue": verdict.flagged,
            "metric_used": selection.metric[signals.labels].tolist(),
            "wjsd": signals.wjsd,
            "acd": signals.acd,
            "p_given": signals.p_given,
            "p_max": signals.p_max,
            "margin": signals.p_max - signals.p_given,
        }
    )
    order = ["is_issue", "doubt", "margin"]
    ranked = frame.sort(order, descending=True, maintain_order=True)
    return ranked.with_columns(pl.int_range(1, pl.len() + 1).alias("rank"))


def as_csv(frame: pl.DataFrame) -> bytes:
    """Return the rows as CSV, numbers with six digits."""
    buffer = io.BytesIO()
    frame.write_csv(buffer, float_precision=6)
    return buffer.getvalue()


def summarise(
    classes: Sequence[str], signals: Signals, selection: Selection, verdict: Verdict
) -> dict[str, Any]:
    """Return per class sizes, flags, estimated noise and how it was judged; and the totals.

    `estimated_noise` is the share that is flagged: with the guard it errs on the low side.
    `mean_noise_prob` errs on the high side where the network is weak.
    """
    size = signals.counts
    flags = np.bincount(signals.labels[verdict.flagged], minlength=len(classes))
    doubt = np.bincount(signals.labels, verdict.noise, len(classes)) / np.maximum(size, 1)
    true = np.bincount(np.where(verdict.flagged, verdict.suggested, signals.labels),
                       minlength=len(classes))  # fmt: skip
    rows = [
        {
            "class": name,
            "images": int(size[k]),
            "flagged": int(flags[k]),
            "estimated_noise": round(float(flags[k] / max(1, size[k])), 4),
            "mean_noise_prob": round(float(doubt[k]), 4),
            "estimated_clean": int(size[k] - flags[k]),
            "estimated_true_size": int(true[k]),
            "metric_used": str(selection.metric[k]),
            "centroid_of": classes[int(signals.target[k])],
        }
        for k, name in enumerate(classes)
    ]
    filled = true[true > 0]
    return {
        "images": len(signals.labels),
        "flagged": int(flags.sum()),
        "agreement": float((signals.predicted == signals.labels).mean()),
        "estimated_noise": float(verdict.flagged.mean()),
        "mean_noise_prob": float(verdict.noise.mean()),
        "imbalance_observed": float(size.max() / max(1, size[size > 0].min())),
        "imbalance_estimated": float(filled.max() / filled.min()),
        "centroids_of_all_samples": signals.fallback,
        "classes": rows,
    }


def class_table(summary: dict[str, Any]) -> Table:
    """Return the summary's classes, most flagged first, as a table for people."""
    rows = sorted(summary["classes"], key=lambda row: -row["flagged"])
    cells = [
        (
            row["class"],
            f"{row['images']:,}",
            f"{row['flagged']:,}",
            f"{100 * row['estimated_noise']:.1f} %",
            f"{row['estimated_true_size']:,}",
            row["metric_used"],
        )
        for row in rows[:40]
    ]
    heads = ("class", "images", "flagged", "share", "true size", "judged by")
    return Table("Classes", heads, cells)


def write_sheet(path: Path, frame: pl.DataFrame, pictures: Any, table: Table) -> None:
    """Write a self-contained page of the first flagged images, by given label.

    `pictures` maps a row's path to its PIL image.
    """
    flagged = frame.filter("is_issue").head(SHOWN)
    total = int(frame["is_issue"].sum())
    parts = [f"{_STYLE}<h1>{total:,} of {len(frame):,} labels look wrong</h1>"]
    if total > SHOWN:
        parts.append(f"<p>The {SHOWN} most doubtful are shown; the report has all.</p>")
    for (given,), rows in flagged.group_by(["given_label"], maintain_order=True):
        parts.append(f"<h2>labelled {html.escape(str(given))}</h2><div class='grid'>")
        parts += [_figure(row, pictures(row["path"])) for row in rows.iter_rows(named=True)]
        parts.append("</div>")
    parts.append(table_html(table))
    write_page(path, "Labels to look at", parts)


def _figure(row: dict[str, Any], image: Any) -> str:
    buffer = io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(buffer, "jpeg", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    name = html.escape(row["path"])
    better = html.escape(row["suggested_label"] or "?")
    return (
        f'<figure><img alt="{name}" title="{name}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><b>{better}?</b> {row['noise_prob']:.2f}<br>"
        f"{html.escape(Path(row['path']).name)}</figcaption></figure>"
    )


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary as JSON."""
    write_text(path, json.dumps(summary, indent=1) + "\n")


def write_cleaned(path: Path, frame: pl.DataFrame) -> None:
    """Write path and label of what was not flagged, paths relative to the table's folder."""
    kept = frame.filter(~pl.col("is_issue")).sort("path")
    table = pl.DataFrame(
        {
            "path": [relative_to(Path(name), path.parent) for name in kept["path"]],
            "label": kept["given_label"],
        }
    )
    with replacing(path) as temporary:
        table.write_csv(temporary)


def relative_to(path: Path, folder: Path) -> str:
    """Return how `folder` calls a file."""
    return os.path.relpath(path.resolve(), folder.resolve())


def copy_flagged(folder: Path, frame: pl.DataFrame) -> int:
    """Copy flagged images to folder/GIVEN/RANK_NAME; return how many. The originals stay."""
    flagged = frame.filter("is_issue")
    for row in flagged.iter_rows(named=True):
        target = folder / row["given_label"] / f"{row['rank']:06d}_{Path(row['path']).name}"
        with replacing(target) as temporary:
            shutil.copyfile(row["path"], temporary)
    return len(flagged)
