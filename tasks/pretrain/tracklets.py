"""Videos of single people, cut out of a sequence of the MOT challenge along its true boxes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from ...core.arrays import read_array, write_array
from ...core.errors import DataError
from ...core.files import check_writable, write_text
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.video import Pixels, Video, is_video, open_video
from .config import TrackletsConfig

MOST_BOXES = 5_000_000


def cut_tracklets(config: TrackletsConfig, progress: Progress | None = None) -> Result:
    """Write a video per person and labels.csv (path, label, frames, first frame).

    Raises `DataError` when the folder is no sequence or nobody stays long enough.
    """
    progress = progress or Silent()
    table = config.out / "labels.csv"
    check_writable(table, config.overwrite)
    boxes = read_boxes(config.sequence / "gt" / "gt.txt")
    last = config.last or int(boxes[:, 0].max())
    boxes = boxes[(boxes[:, 0] >= config.first) & (boxes[:, 0] <= last)]
    ids, counts = np.unique(boxes[:, 1].astype(int), return_counts=True)
    kept = {int(i) for i, count in zip(ids, counts, strict=True) if count >= config.min_length}
    if not kept:
        raise DataError(
            f"{config.sequence}: nobody is seen in {config.min_length} frames "
            f"of {config.first} to {last}",
            "lower --min-length, or widen --first and --last",
        )
    cut = _cut(_find_video(config.sequence), boxes, kept, config, last, progress)
    rows = []
    for person, pictures in sorted(cut.items()):
        name = f"{config.sequence.name}-{person:04d}.npy"
        write_array(config.out / "videos" / name, np.stack([picture for _, picture in pictures]))
        label = f"{config.sequence.name}-{person:04d}"
        rows.append((f"videos/{name}", label, len(pictures), pictures[0][0]))
    buffer = io.StringIO()
    header = ("path", "label", "frames", "first")
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    write_text(table, buffer.getvalue())
    return Result(
        inputs={"sequence": str(config.sequence)},
        outputs={"labels": str(table), "videos": str(config.out / "videos")},
        metrics={"people": len(rows), "frames": sum(row[2] for row in rows)},
        notes=(f"Next: mlkit pretrain {table} --frames 4 --stride 3 --squash",),
    )


def read_boxes(path: Path) -> np.ndarray:
    """Return the boxes that count, (N, 6): frame, id, left, top, width, height (from 1)."""
    if not path.is_file():
        raise DataError(f"{path} does not exist", "give a folder of the MOT challenge")
    lines = path.read_text().split("\n")
    rows = [line for line in lines if line.strip()]
    if not rows or len(rows) > MOST_BOXES or len({line.count(",") for line in rows}) != 1:
        raise DataError(f"{path} is no table of boxes", "frame,id,left,top,width,height,conf,...")
    values = read_array(path).reshape(len(rows), -1)
    if values.shape[1] < 7:
        raise DataError(f"{path}: {values.shape[1]} columns, 7 at least are needed")
    counts = values[:, 6] == 1
    if values.shape[1] == 9:  # MOT16 and later name classes: 1 is a pedestrian
        counts &= values[:, 7] == 1
    return values[counts][:, :6]


def _find_video(sequence: Path) -> Video:
    if (sequence / "img1").is_dir():
        return open_video(sequence / "img1")
    files = sorted(item for item in sequence.iterdir() if item.is_file() and is_video(item))
    if not files:
        raise DataError(f"{sequence} holds neither img1/ nor a video file")
    return open_video(files[0])


def _cut(
    video: Video,
    boxes: np.ndarray,
    kept: set[int],
    config: TrackletsConfig,
    last: int,
    progress: Progress,
) -> dict[int, list[tuple[int, Pixels]]]:
    """Return (frame, picture) of every person that is kept, in order of time."""
    found: dict[int, list[tuple[int, Pixels]]] = {person: [] for person in kept}
    with progress.task("cutting people out", last) as task:
        for number, frame in enumerate(video, 1):
            if number > last:
                break
            for _, person, *box in boxes[boxes[:, 0] == number]:
                if int(person) in kept:
                    picture = _crop(frame.pixels, box, (config.width, config.height))
                    found[int(person)].append((number, picture))
            task.advance(1)
    return {person: pictures for person, pictures in found.items() if pictures}


def _crop(pixels: Pixels, box: list[float], size: tuple[int, int]) -> Pixels:
    """Return the box (left, top, width, height; from 1) as (width, height); black outside."""
    from PIL import Image

    left, top, width, height = box
    x, y = round(left - 1), round(top - 1)
    corner = max(x + 1, round(left - 1 + width)), max(y + 1, round(top - 1 + height))
    cut = Image.fromarray(pixels).crop((x, y, *corner))
    return np.asarray(cut.resize(size, Image.Resampling.BILINEAR))
