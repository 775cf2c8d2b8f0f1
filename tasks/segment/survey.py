"""Looking through references before a long run, and writing REFER's as JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.files import check_writable
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import MAX_WORDS, CheckConfig, ConvertConfig
from .instances import size_of
from .masks import rasterise
from .references import Reference, open_references, write_references
from .text import Vocabulary, tokenize


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count sentences, words and splits, and read every mask.

    Photographs and masks that cannot be used are listed. Raises `DataError` when the file
    itself is damaged.
    """
    progress = progress or Silent()
    references = open_references(config.data, config)
    areas: list[float] = []
    failures: dict[str, str] = {}
    with progress.task("reading", len(references)) as bar:
        for reference in references:
            try:
                size = size_of(reference.image)
                if reference.mask is not None:
                    mask = rasterise(reference.mask, size, f"{reference.image} {reference.id}")
                    areas.append(float(mask.mean()))
            except DataError as error:
                failures[f"{reference.image} {reference.id}"] = error.message
            bar.advance()
    metrics = describe(references) | {"median_area": float(np.median(areas)) if areas else None}
    rows = [(name.replace("_", " "), _text(value)) for name, value in metrics.items()]
    usable = f"mlkit train segment {config.data} would work"
    return Result(
        inputs={"data": str(config.data)},
        metrics=metrics,
        tables=(Table(str(config.data), ("", "value"), rows),),
        notes=() if failures else (usable,),
        failures=failures,
    )


def describe(references: Sequence[Reference]) -> dict[str, Any]:
    """Return counts of sentences, photographs, words, splits and kinds."""
    texts = [reference.expression for reference in references]
    lengths = [len(tokenize(text)) for text in texts]
    rare = Counter(word for text in texts for word in tokenize(text))
    return {
        "sentences": len(references),
        "photographs": len({reference.image for reference in references}),
        "meaning_nothing": sum(reference.mask is None for reference in references),
        "words": len(Vocabulary.build(texts)) - 4,
        "words_seen_once": sum(count == 1 for count in rare.values()),
        "median_length": float(np.median(lengths)),
        "longer_than_20": sum(length > MAX_WORDS for length in lengths),
        "splits": dict(Counter(r.split or "(none)" for r in references)),
        "kinds": dict(Counter(r.kind or "(none)" for r in references)),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if value else "-"


def convert(config: ConvertConfig, progress: Progress | None = None) -> Result:
    """Write REFER's references as JSON lines, which need neither pickle nor instances.json."""
    check_writable(config.out, config.overwrite)
    references = open_references(config.data, config)
    write_references(config.out, references)
    splits = dict(Counter(r.split or "(none)" for r in references))
    return Result(
        inputs={"data": str(config.data)},
        outputs={"references": str(config.out)},
        metrics={"sentences": len(references), "splits": splits},
        notes=(f"Next: mlkit check segment {config.out}",),
    )
