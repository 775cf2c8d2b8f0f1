"""Pictures: boxes with identities on frames, and HOTA against the frame rate."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...core.progress import Progress
from ...core.report import new_figure, write_figure
from ...core.video import writing_video
from .boxes import Array
from .formats import Rows
from .sequence import SequenceInfo

GOLDEN = 0.618034  # consecutive identities get colours far apart
TRAIL = 8  # places of a track that are shown behind it


def colour_of(identity: int) -> tuple[int, int, int]:
    """Return the colour of an identity, RGB."""
    red, green, blue = colorsys.hsv_to_rgb(identity * GOLDEN % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: Array, rows: Rows, trails: Mapping[int, Sequence[Array]] | None = None
) -> Array:
    """Return a copy of a frame, uint8 (H, W, 3), with boxes, identities and trails."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image.copy())
    pen = ImageDraw.Draw(picture)
    thick = max(1, round(max(picture.size) / 400))
    for identity, box in zip(rows.identity.tolist(), rows.boxes, strict=True):
        colour = colour_of(identity)
        left, top, width, height = box.tolist()
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=thick)
        text = str(identity)
        size = pen.textbbox((0, 0), text)
        corner = (max(0.0, left), max(0.0, top - size[3] - 2))
        pen.rectangle((*corner, corner[0] + size[2] + 3, corner[1] + size[3] + 2), fill=colour)
        pen.text((corner[0] + 2, corner[1]), text, fill=(0, 0, 0))
        trail = [tuple(point) for point in (trails or {}).get(identity, ())]
        if len(trail) > 1:
            pen.line(trail, fill=colour, width=thick)
    return np.asarray(picture)


def write_annotated(
    path: Path,
    info: SequenceInfo,
    places: Sequence[int],
    rows: Rows,
    fps: float,
    progress: Progress,
) -> None:
    """Write the processed frames with their tracks as an MP4 that plays at their own speed."""
    trails: dict[int, list[Array]] = {}
    with writing_video(path, fps) as video, progress.task("drawing", len(places)) as task:
        for place, image in zip(places, info.read(places), strict=True):
            here = rows.at(info.numbers[place])
            for identity, box in zip(here.identity.tolist(), here.boxes, strict=True):
                foot = np.array((box[0] + box[2] / 2, box[1] + box[3]))
                trails[identity] = [*trails.get(identity, [])[1 - TRAIL :], foot]
            video.add(draw_boxes(image, here, trails))
            task.advance()


def draw_sheet(path: Path, info: SequenceInfo, places: Sequence[int], rows: Rows) -> None:
    """Write a strip of frames with their tracks as one picture."""
    import torch

    from ...core.media import contact_sheet, write_image

    frames = [
        draw_boxes(image, rows.at(info.numbers[place]))
        for place, image in zip(places, info.read(places), strict=True)
    ]
    sheet = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    write_image(path, contact_sheet(sheet, columns=3))


def plot_rates(path: Path, curves: Mapping[str, Mapping[float, Mapping[str, float]]]) -> None:
    """Draw HOTA and IDF1 against the frames processed per second, one curve per tracker."""
    figure = new_figure(8, 3.4)
    for axes, metric in zip(figure.subplots(1, 2), ("HOTA", "IDF1"), strict=True):
        for name, points in curves.items():
            rates = sorted(points)
            axes.plot(rates, [points[rate][metric] for rate in rates], marker="o", label=name)
        axes.set(xscale="log", xlabel="frames processed per second of video", ylabel=metric)
        ticks = sorted({rate for points in curves.values() for rate in points})
        axes.set_xticks(ticks, [f"{rate:.3g}" for rate in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    write_figure(path, figure)
