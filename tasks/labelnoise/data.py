"""Labelled images, decoded once: levels in uint8, labels, and where each came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image as pillow
from torch import Tensor

from ...core.arrays import read_array
from ...core.errors import DataError
from ...core.labelled import LabelledPaths, list_labelled
from ...core.media import centre_square, read_image
from ...core.progress import Progress

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Images:
    """Images `levels` (N, 3, S, S) uint8 with `labels` (N,) int64; `names` tell where from.

    `broken` maps files that could not be read to the reason.
    """

    levels: Tensor
    labels: Tensor
    classes: Sequence[str]
    names: Sequence[str]
    broken: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> Tensor:
        """Images per class (K,)."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    def take(self, places: Tensor) -> Images:
        """Return the images at `places` (int64)."""
        names = [self.names[i] for i in places.tolist()]
        return Images(self.levels[places], self.labels[places], self.classes, names)


def normalise(levels: Tensor) -> Tensor:
    """Return network inputs (N, 3, H, W) of uint8 levels."""
    mean, std = (torch.tensor(v, device=levels.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (levels.float() / 255 - mean) / std


def list_images(source: Path, classes: Sequence[str] | None = None) -> LabelledPaths:
    """Return the files and labels of a class folder, or of a table with a path and a label.

    `classes` fixes the names and their order. Raises `DataError` for fewer than two classes, labels
    not in `classes`, and what `list_labelled` refuses.
    """
    found = list_labelled(source)
    if classes is not None:
        return _renumbered(found, classes, source)
    if len(found.classes) < 2:
        raise DataError(f"{source} has one class, {found.classes[0]}", "give two or more")
    return found


def _renumbered(found: LabelledPaths, classes: Sequence[str], source: Path) -> LabelledPaths:
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise DataError(
            f"{source} has classes that are not known: {', '.join(unknown[:5])}",
            f"known are: {', '.join(classes[:12])}",
        )
    index = {name: i for i, name in enumerate(classes)}
    return LabelledPaths(found.paths, [index[found.classes[k]] for k in found.labels], classes)


def open_images(
    source: Path, size: int, progress: Progress, classes: Sequence[str] | None = None
) -> Images:
    """Decode a class folder, a table of files, or an .npz of `images` and `labels`.

    The shorter side is scaled to `size` pixels and the middle square kept. Files that cannot be
    read are left out and listed in `broken`. Raises `DataError` when none can be read.
    """
    if source.suffix.lower() == ".npz":
        return _from_npz(source, size, classes)
    found = list_images(source, classes)
    kept: list[int] = []
    broken: dict[str, str] = {}
    levels = np.empty((len(found.paths), size, size, 3), np.uint8)
    with progress.task("reading images", len(found.paths)) as task:
        for i, path in enumerate(found.paths):
            try:
                levels[len(kept)] = _square(read_image(path), size)
                kept.append(i)
            except DataError as error:
                broken[str(path)] = error.message
            task.advance()
    if not kept:
        raise DataError(f"none of the images of {source} can be read", next(iter(broken.values())))
    labels = torch.tensor(found.labels)[torch.tensor(kept)]
    planes = torch.from_numpy(levels[: len(kept)]).permute(0, 3, 1, 2).contiguous()
    return Images(planes, labels, found.classes, [str(found.paths[i]) for i in kept], broken)


def _square(image: pillow.Image, size: int) -> np.ndarray:
    return np.asarray(centre_square(image, size, size, pillow.Resampling.BILINEAR))


def _from_npz(source: Path, size: int, classes: Sequence[str] | None) -> Images:
    images, labels = read_array(source, "images"), read_array(source, "labels")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise DataError(
            f"{source}: images are {images.dtype} {images.shape}, not uint8 (N, H, W, 3)"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "ui":
        raise DataError(f"{source}: labels are {labels.dtype} {labels.shape}, not ({len(images)},)")
    names = classes or [str(i) for i in range(int(labels.max()) + 1)]
    if len(names) < 2 or int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise DataError(
            f"{source}: labels {labels.min()}..{labels.max()} are not 0..{len(names) - 1}"
        )
    squares = np.stack([_square(pillow.fromarray(image), size) for image in images])
    return Images(
        torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
        names,
        [f"{source}#{i}" for i in range(len(images))],
    )


def conflicts(images: Images) -> pl.DataFrame:
    """Return pictures that occur with different labels, one row per file: `group`, `place`.

    Two files are the same picture when their decoded levels are equal.
    """
    import hashlib

    keys = [hashlib.blake2b(level.numpy().tobytes()).hexdigest() for level in images.levels]
    frame = pl.DataFrame({"key": keys, "label": images.labels.numpy()}).with_row_index("place")
    several = frame.group_by("key").agg(pl.col("label").n_unique().alias("kinds"))
    doubtful = frame.join(several.filter(pl.col("kinds") > 1), on="key")
    return doubtful.select(pl.col("key").rank("dense").alias("group"), "place").sort(
        "group", "place"
    )
