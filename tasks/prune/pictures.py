"""What there is to look at: channels per layer, the synthetic images, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ...core.inputs import InputSpec
from ...core.media import contact_sheet, write_image
from ...core.report import new_figure, write_figure, write_report
from ...core.results import Result
from .config import PruneConfig
from .plan import Cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_layers(cuts: Sequence[Cut]) -> Figure:
    """Draw, for each layer, the channels it had and those that it keeps."""
    figure = new_figure(7, 0.8 + 0.2 * len(cuts))
    axes = figure.subplots()
    places = range(len(cuts))
    axes.barh(places, [cut.before for cut in cuts], color="#d5dde5", label="before")
    axes.barh(places, [cut.after for cut in cuts], color="#2a6f97", label="after")
    axes.set_yticks(places, [cut.layer for cut in cuts], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("channels")
    axes.legend()
    return figure


def write_pictures(
    config: PruneConfig,
    folder: Path | None,
    cuts: Sequence[Cut],
    images: Tensor | None,
    spec: InputSpec,
    result: Result,
    command: str,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Write the chart where `--plot` says, and chart, contact sheet and report into the run."""
    if config.plot is not None:
        write_figure(config.plot, plot_layers(cuts))
    if folder is None:
        return
    pictures = {"Channels per layer": folder / "layers.png"}
    write_figure(folder / "layers.png", plot_layers(cuts))
    if images is not None:
        source = "Images from --images" if config.images else "Synthetic images"
        pictures[source] = folder / "images.png"
        write_image(folder / "images.png", contact_sheet(spec.denormalise(images[:32]), 8))
    write_report(
        folder / "report.html",
        f"mlkit prune: {result.inputs['model']}",
        result,
        settings=config.to_dict(),
        command=command,
        pictures=pictures,
        history=history,
    )
