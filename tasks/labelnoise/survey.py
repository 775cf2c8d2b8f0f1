"""Looking through labelled images before a long run, and making wrong labels on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.arrays import read_array
from ...core.errors import DataError
from ...core.files import check_writable, replacing
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig, NoisyConfig
from .data import conflicts, list_images, open_images
from .noise import asymmetric, corrupt, long_tail, symmetric
from .report import relative_to
from .selection import FEWEST

Array = NDArray[Any]
LOOKED_AT = 32  # pixels at which pictures are compared


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Read every image once: class sizes, imbalance, broken files, pictures with two labels."""
    progress = progress or Silent()
    images = open_images(config.data, LOOKED_AT, progress)
    counts = images.counts.tolist()
    doubtful = conflicts(images)
    named = [images.names[i] for i in doubtful["place"]]
    filled = [count for count in counts if count]
    notes = [f"{len(images):,} images, {len(images.classes)} classes"]
    small = [name for name, n in zip(images.classes, counts, strict=True) if n < FEWEST]
    if small:
        notes.append(f"fewer than {FEWEST} images, will not be judged: {', '.join(small[:8])}")
    if named:
        notes.append(f"the same picture with different labels: {', '.join(named[:6])}")
    metrics = {
        "images": len(images),
        "classes": dict(zip(images.classes, counts, strict=True)),
        "imbalance": max(filled) / min(filled),
        "conflicts": named,
    }
    rows = [(name, f"{n:,}") for name, n in zip(images.classes, counts, strict=True)]
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(Table("Classes", ("class", "images"), rows),),
        notes=tuple(notes),
        failures=images.broken,
    )


def make_noisy(config: NoisyConfig, progress: Progress | None = None) -> Result:
    """Write a table (path, label, true_label): a long tail first, then wrong labels.

    Raises `DataError` when the images cannot be used or the matrix does not fit the classes.
    """
    check_writable(config.out, config.overwrite)
    found = list_images(config.data)
    random = np.random.default_rng(config.seed)
    truth, classes = np.array(found.labels), len(found.classes)
    matrix = _matrix(config.noise, classes, random)
    kept = np.arange(len(truth))
    if config.imbalance < 1:
        order = np.argsort(-np.bincount(truth, minlength=classes), kind="stable")
        rank = order.argsort()  # the largest class stays whole
        kept = long_tail(rank[truth], classes, config.imbalance, random)
    truth = truth[kept]
    given = corrupt(truth, matrix, random)
    names = np.array(found.classes, dtype=object)
    folder = config.out.parent
    table = pl.DataFrame(
        {
            "path": [relative_to(found.paths[i], folder) for i in kept.tolist()],
            "label": names[given].tolist(),
            "true_label": names[truth].tolist(),
        }
    )
    with replacing(config.out) as temporary:
        table.write_csv(temporary)
    wrong = given != truth
    counts = [
        np.bincount(part, minlength=classes) for part in (truth, given, given[given != truth])
    ]
    rows = [(name, *(f"{count[k]:,}" for count in counts)) for k, name in enumerate(found.classes)]
    return Result(
        inputs={"data": str(config.data)},
        outputs={"table": str(config.out)},
        metrics={"images": len(given), "wrong": int(wrong.sum()), "rate": float(wrong.mean())},
        tables=(Table("Made", ("class", "true", "labelled so", "of which wrong"), rows),),
        notes=(
            f"{100 * wrong.mean():.1f} % of {len(given):,} labels are wrong",
            f"Next: mlkit labelnoise {config.out}",
        ),
    )


def _matrix(noise: str, classes: int, random: np.random.Generator) -> Array:
    kind, _, rate = noise.partition(":")
    if kind == "sym":
        return symmetric(classes, float(rate))
    if kind == "asym":
        return asymmetric(classes, float(rate), random)
    matrix = read_array(Path(noise))
    if matrix.shape != (classes, classes):
        raise DataError(f"{noise} is {matrix.shape}, the data have {classes} classes")
    if (matrix < 0).any() or np.abs(matrix.sum(1) - 1).max() > 1e-6:
        raise DataError(f"{noise}: each row must hold probabilities that sum to 1")
    return matrix
