"""Pictures: interests on a map of items, and recall against diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.report import new_figure
from .aggregate import Lists

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 4  # items per interest whose titles are written


def interest_map(
    vectors: Tensor, history: Tensor, interests: Tensor, lists: Lists, title: Callable[[int], str]
) -> Figure:
    """Draw a history (T,), interests (K, d) and their items in the plane that shows them best.

    Directions alone are drawn (unit vectors, first two principal components).
    """
    listed = lists.items[0][lists.items[0] > 0]
    owners = lists.interests[0][: len(listed)]
    points = torch.cat((vectors[history], vectors[listed], interests))
    points = torch.nn.functional.normalize(points, dim=1)
    centred = points - points.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    past, found, stars = (centred @ axes.T).split([len(history), len(listed), len(interests)])
    figure = new_figure(8, 6)
    plot = figure.subplots()
    plot.plot(*past.T, "o", color="0.7", ms=5, label="history")
    for k in range(len(interests)):
        mine = owners == k
        colour = f"C{k % 10}"
        plot.plot(*stars[k], "*", color=colour, ms=16, label=f"interest {k + 1}")
        plot.plot(*found[mine].T, "o", color=colour, ms=5)
        for place, item in list(zip(found[mine], listed[mine].tolist(), strict=True))[:NAMED]:
            plot.annotate(title(item)[:28], place.tolist(), fontsize=7, color=colour)
    plot.set(xticks=[], yticks=[], title="Items and interests (principal plane of directions)")
    plot.legend(fontsize=8)
    return figure


def dial_plot(curves: Mapping[str, Sequence[tuple[float, float, float]]], length: int) -> Figure:
    """Draw recall against diversity at list length N; curves hold (lambda, diversity, recall)."""
    figure = new_figure(6.4, 4.4)
    plot = figure.subplots()
    for name, points in curves.items():
        plot.plot([p[1] for p in points], [p[2] for p in points], "o-", label=name)
        if len(points) > 1:
            for dial, diversity, recall in points:
                plot.annotate(
                    f"{dial:g}",
                    (diversity, recall),
                    fontsize=7,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
    plot.set(
        xlabel=f"diversity@{length}, %",
        ylabel=f"recall@{length}, %",
        title="The dial: numbers are lambda",
    )
    plot.legend(fontsize=8)
    return figure
