"""Scoring: IoU and precision per kind of expression, with controls beside the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from .checkpoint import EMBEDDED, Trained, open_trained
from .config import EvalConfig
from .data import read_square
from .masks import Mask, rasterise
from .metrics import THRESHOLDS, Overlap, summarise
from .predict import probabilities
from .references import Reference, open_references
from .text import OPPOSITES, exchange

ALL, SWAPPED = "all candidates", "opposite words"
Overlaps = dict[str, list[Overlap]]


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score models on references, at the size of the photographs.

    With controls: the mask of all candidates, which needs no model and no sentence beyond its
    noun, and the masks of sentences whose words were replaced by their opposites, against the
    truth of the original ones. Raises `DataError` when the split is empty.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    paths = config.weights or (EMBEDDED,)
    models = [open_trained(path, runtime.device) for path in paths]
    references = select(open_references(config.data, config), config.split)
    names = [str(path) if config.weights else "embedded" for path in paths]
    metrics, tables = {}, []
    for name, trained in zip(names, models, strict=True):
        found = score(trained, references, runtime, progress, config.controls, config.threshold)
        metrics[name] = {row: by_kind(part, references) for row, part in found.items()}
        tables += [_table(name if row == "model" else f"{name}, {row}", values)
                   for row, values in metrics[name].items()]  # fmt: skip
    unknown = _unknown(models, references)
    notes = [f"{count} sentences hold words that {name} does not know"
             for name, count in zip(names, unknown, strict=True) if count]  # fmt: skip
    return Result(
        inputs={"data": str(config.data), "split": config.split, "references": len(references)},
        metrics=metrics | {"sentences_with_unknown_words": dict(zip(names, unknown, strict=True))},
        tables=tuple(tables),
        notes=tuple(notes),
    )


def select(references: Sequence[Reference], split: str) -> list[Reference]:
    """Return the references of a split. Raises `DataError` that names those there are."""
    chosen = [r for r in references if split in ("all", r.split)]
    if not chosen:
        there = ", ".join(sorted({r.split or "(none)" for r in references}))
        raise DataError(f"no references in the split '{split}'", f"there are: {there}; or all")
    return chosen


def score(
    trained: Trained,
    references: Sequence[Reference],
    runtime: Runtime,
    progress: Progress,
    controls: bool = False,
    threshold: float = 0.5,
) -> dict[str, list[Overlap | None]]:
    """Return for "model" and each control the overlap of every reference, None without one."""
    found: dict[str, list[Overlap | None]] = {"model": [None] * len(references)}
    if controls:
        found |= {ALL: [None] * len(references), SWAPPED: [None] * len(references)}
    groups: dict[Any, list[int]] = {}
    for place, reference in enumerate(references):
        groups.setdefault(reference.image, []).append(place)
    with progress.task(f"scoring {trained.name}", len(references)) as bar:
        for image, places in groups.items():
            square, box = read_square(image, trained.model.options.image_size)
            size = (box.height, box.width)
            truths = [_truth(references[place], size) for place in places]
            texts = [references[place].expression for place in places]
            maps = probabilities(trained, square, box, texts, runtime)
            for place, prob, truth in zip(places, maps, truths, strict=True):
                found["model"][place] = Overlap.of(prob > threshold, truth)
            if controls:
                swapped = [exchange(text, OPPOSITES) for text in texts]
                opposite = probabilities(trained, square, box, swapped, runtime)
                for i, place in enumerate(places):
                    if swapped[i].lower() != texts[i].lower():
                        found[SWAPPED][place] = Overlap.of(opposite[i] > threshold, truths[i])
                    candidates = references[place].candidates
                    if candidates is not None:
                        whole = rasterise(candidates, size, str(image))
                        found[ALL][place] = Overlap.of(whole, truths[i])
            bar.advance(len(places))
    return found


def _truth(reference: Reference, size: tuple[int, int]) -> Mask:
    if reference.mask is None:
        return np.zeros(size, dtype=bool)
    return rasterise(reference.mask, size, str(reference.image))


def by_kind(
    overlaps: Sequence[Overlap | None], references: Sequence[Reference]
) -> dict[str, dict[str, float]]:
    """Return the scores of each kind of expression and of all that mean something.

    Where nothing is meant ("none"), an empty mask scores 1 and any other 0.
    """
    kinds: Overlaps = {}
    for overlap, reference in zip(overlaps, references, strict=True):
        if overlap is not None:
            if reference.kind:
                kinds.setdefault(reference.kind, []).append(overlap)
            if reference.mask is not None:
                kinds.setdefault("all", []).append(overlap)
    order = sorted(kinds, key=lambda kind: (kind == "all", kind))
    return {kind: {"count": len(kinds[kind])} | summarise(kinds[kind]) for kind in order}


def _table(title: str, kinds: dict[str, dict[str, float]]) -> Table:
    names = ("overall", "mean", *(f"prec@{x}" for x in THRESHOLDS))
    columns = ("kind", "count", *(name.replace("prec@0", "P@") for name in names))
    rows = [
        (kind, f"{values['count']:,}", *(f"{100 * values[name]:.1f}" for name in names))
        for kind, values in kinds.items()
    ]
    return Table(f"{title}, IoU and precision in %", columns, rows)


def _unknown(models: Sequence[Trained], references: Sequence[Reference]) -> list[int]:
    return [
        sum(bool(trained.vocabulary.unknown(r.expression)) for r in references)
        for trained in models
    ]
