"""The main job: which of some classes, never seen in training, do photos show?"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import DataError
from ...core.files import check_writable, write_text
from ...core.media import find_images
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import start
from .baselines import nearest_seen
from .checkpoint import Trained
from .classes import Chosen, read_classes, split_classes
from .config import ZeroshotConfig
from .data import read_features
from .explain import explain
from .graph import describe_gaps
from .override import open_model
from .scoring import Scorer, final_scores, make_scorer, with_seen

STREAM = Path("-")
_COLUMNS = ("image", "rank", "class", "wnid", "score", "seen", "definition", "closest_seen")


@dataclass(frozen=True)
class _Answer:
    """What is said of one photo: rows of `_COLUMNS`, best first."""

    image: str
    rows: list[dict[str, Any]]


def classify(
    config: ZeroshotConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Rank candidate classes for photos, or explain one class.

    Raises `DataError` for classes that are unknown or ambiguous and for a single photo that
    cannot be read; in folders such photos are skipped and listed.
    """
    progress = progress or Silent()
    for path in (config.out, config.plot):
        if path is not None and path != STREAM:
            check_writable(path, config.overwrite)
    runtime = start(run_options or RunOptions())
    trained = open_model(config)
    if config.explain is not None:
        return explain(trained, config.explain, config.top)
    paths, alone = _photos(config)
    chosen = _candidates(config, trained, progress)
    scorer = make_scorer(trained, config, chosen.places)
    features, kept, failures = read_features(
        paths, trained.backbone, runtime, config.batch_size, progress, alone or config.strict
    )
    if not kept:
        raise DataError("none of the photos can be read", next(iter(failures.values())))
    found = final_scores(scorer, trained, config, config.by, features)
    images = [str(paths[place]) for place in kept]
    answers = _answers(trained, chosen, scorer, found, images, config.top)
    return _deliver(config, trained, chosen, answers, failures, [paths[i] for i in kept])


def _photos(config: ZeroshotConfig) -> tuple[list[Path], bool]:
    """Return the photos, and whether one file alone was asked for."""
    found = [find_images(path) if path.is_dir() else [path] for path in config.inputs]
    alone = len(config.inputs) == 1 and not config.inputs[0].is_dir()
    return [path for paths in found for path in paths], alone


def _candidates(config: ZeroshotConfig, trained: Trained, progress: Progress) -> Chosen:
    taxonomy = trained.graph.taxonomy
    if config.classes is not None:
        chosen = read_classes(config.classes, taxonomy)
    else:
        assert config.among is not None
        chosen = split_classes(config.among, taxonomy)
    for warning in describe_gaps(trained.graph, list(chosen.places)):
        progress.warn(warning)
    if not config.with_seen:
        return chosen
    places = with_seen(chosen.places, trained.graph)
    more = [taxonomy.title(place) for place in places[len(chosen) :]]
    return Chosen((*chosen.labels, *more), tuple(places))


def _answers(
    trained: Trained, chosen: Chosen, scorer: Scorer, scores: Tensor, images: list[str], top: int
) -> list[_Answer]:
    taxonomy, graph = trained.graph.taxonomy, trained.graph
    values, order = scores.topk(min(top, scores.shape[1]), dim=1)
    relatives: dict[int, str] = {}
    answers = []
    for image, row, numbers in zip(images, values.tolist(), order.tolist(), strict=True):
        found = []
        for rank, (value, place) in enumerate(zip(row, numbers, strict=True), 1):
            node = chosen.places[place]
            if node not in relatives:
                near = nearest_seen(graph.pairs, graph.seen, node, 1)
                relatives[node] = taxonomy.title(near[0][0]) if near else ""
            found.append(
                {
                    "class": chosen.labels[place],
                    "wnid": taxonomy.ids[node],
                    "score": round(value, 4),
                    "rank": rank,
                    "seen": bool(scorer.seen[place]),
                    "definition": taxonomy.definition(node),
                    "closest_seen": relatives[node],
                }
            )
        answers.append(_Answer(image, found))
    return answers


def _deliver(
    config: ZeroshotConfig,
    trained: Trained,
    chosen: Chosen,
    answers: list[_Answer],
    failures: dict[str, str],
    paths: list[Path],
) -> Result:
    outputs = {}
    text = _as_text(answers, config.out.suffix) if config.out is not None else ""
    if config.out is not None and config.out != STREAM:
        write_text(config.out, text)
        outputs["answers"] = str(config.out)
    if config.plot is not None:
        from .pictures import draw_answers

        draw_answers(config.plot, paths, [answer.rows for answer in answers])
        outputs["picture"] = str(config.plot)
    mixture = trained.mixture
    notes = [f"{len(chosen)} candidates, scored by {config.by}; {trained.name}"]
    if config.by == "ensemble" and not mixture.tuned:
        notes.append("the parts of the ensemble weigh the same: nothing was tuned on photos")
    return Result(
        inputs={"photos": len(answers), "candidates": len(chosen), "model": trained.name},
        outputs=outputs,
        metrics={"images": [{"image": a.image, "classes": a.rows} for a in answers]},
        tables=() if outputs.get("answers") else tuple(_tables(answers)),
        notes=tuple(notes),
        failures=failures,
        stream=text.encode() if config.out == STREAM else None,
    )


def _tables(answers: list[_Answer]) -> Iterator[Table]:
    columns = ("class", "score", "definition", "closest seen class")
    if len(answers) == 1:
        rows = [
            (r["class"], f"{r['score']:.2f}", _short(r["definition"]), r["closest_seen"])
            for r in answers[0].rows
        ]
        yield Table(answers[0].image, columns, rows)
        return
    yield Table(
        "Best classes",
        ("photo", "best", "score", "then"),
        [
            (
                Path(a.image).name,
                a.rows[0]["class"],
                f"{a.rows[0]['score']:.2f}",
                ", ".join(r["class"] for r in a.rows[1:]),
            )
            for a in answers
        ],
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_text(answers: list[_Answer], suffix: str) -> str:
    """Return JSON lines, a photo each, or CSV, a class each."""
    if suffix == ".jsonl":
        lines = [json.dumps({"image": a.image, "classes": a.rows}) for a in answers]
        return "".join(f"{line}\n" for line in lines)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        writer.writerows({"image": answer.image, **row} for row in answer.rows)
    return buffer.getvalue()
