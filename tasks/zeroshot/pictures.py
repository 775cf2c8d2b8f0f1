"""Pictures: photos with their best classes, and hit rates over k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.media import read_image
from ...core.report import new_figure, write_figure
from .metrics import KS

MOST = 12
_UNSEEN, _SEEN = "#9cc9e3", "#d5d9dd"


def draw_answers(
    path: Path, photos: Sequence[Path], answers: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Draw the first photos, each over bars of its best classes (seen ones in grey)."""
    pairs = [pair for pair in zip(photos, answers, strict=True) if str(pair[0]) != "-"][:MOST]
    columns = max(1, min(4, len(pairs)))
    lines = max(1, math.ceil(len(pairs) / columns))
    figure = new_figure(3.2 * columns, 4.2 * lines)
    axes = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[2, 1.2] * lines)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (photo, rows) in enumerate(pairs):
        line, column = divmod(i, columns)
        image = read_image(photo)
        image.thumbnail((320, 320))
        axes[2 * line][column].imshow(image)
        _bars(axes[2 * line + 1][column], rows)
    write_figure(path, figure)


def _bars(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    least = min(0.0, *(row["score"] for row in rows))
    places = list(range(len(rows)))[::-1]
    colours = [_SEEN if row["seen"] else _UNSEEN for row in rows]
    axis.barh(places, [row["score"] - least for row in rows], color=colours)
    for place, row in zip(places, rows, strict=True):
        axis.text(0, place, f" {row['class']}", va="center", fontsize=9)


def draw_hits(path: Path, found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Draw hit@k over k, a chart per setting and a line per method."""
    figure = new_figure(4.2 * len(found), 3.4)
    for axis, (title, part) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        for name, row in part.items():
            axis.plot(KS, [100 * row[f"hit@{k}"] for k in KS], marker="o", label=name)
        axis.set(title=title, xlabel="k", ylabel="hit@k in percent", ylim=(0, 100))
        axis.legend(fontsize=8)
    write_figure(path, figure)
