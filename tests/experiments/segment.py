"""Experiments of `segment`: the generated world with its ablations, and derived sentences.

`ARMS=full;sum` runs some arms, `STEPS=600` shortens the training.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.core.errors import DataError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import Runtime, start
from mlkit.tasks.segment.checkpoint import Trained
from mlkit.tasks.segment.config import (
    DeriveConfig,
    SegmentTraining,
    SourceOptions,
    SynthConfig,
    TrainConfig,
)
from mlkit.tasks.segment.derive import derive
from mlkit.tasks.segment.fit import Parts, fit_segmenter
from mlkit.tasks.segment.groups import GROUPS, group_of
from mlkit.tasks.segment.instances import read_scenes, size_of
from mlkit.tasks.segment.masks import Runs, encode_runs, rasterise
from mlkit.tasks.segment.metrics import Overlap
from mlkit.tasks.segment.references import Reference, open_references
from mlkit.tasks.segment.score import by_kind, score
from mlkit.tasks.segment.synth import synthesise

from .__main__ import spread

HUMAN = Path(__file__).parent / "data" / "refer-human.jsonl"
SHAPE_ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "order lstm": {"word_order": "lstm"},
    "no language": {"language": "none"},
    "bag of words": {"language": "mean"},
    "no positions": {"spatial": False},
    "sum": {"fusion": "sum"},
}
PHOTO_ARMS: dict[str, dict[str, Any]] = {
    "frozen": {"backbone": "efficientnet_lite0"},
    "frozen, no language": {"backbone": "efficientnet_lite0", "language": "none"},
    "from scratch": {"backbone": "mini"},
}
FOLDS = 5
# What people call persons; other nouns are those of COCO's classes.
PERSONS = frozenset(
    (
        "man", "woman", "boy", "girl", "child", "player", "skater", "rider", "umpire", "catcher",
        "cook", "skier",
    )
)  # fmt: skip


def _say(*items: Any) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {json.dumps(items)}", file=sys.stderr, flush=True)


def _arms(every: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    wanted = os.environ.get("ARMS")
    return every if wanted is None else {name: every[name] for name in wanted.split(";")}


def _steps(default: int) -> int:
    return int(os.environ.get("STEPS", default))


def shapes(data: Path, seeds: int) -> dict[str, Any]:
    """Experiment S: 3,000 scenes of 3 to 4 shapes at 32 pixels, one training per arm and seed.

    Weights are those of the best mean IoU on the split val; scores are those on test (300
    scenes, a sentence of each kind) and on composition, at 0.5.
    """
    steps, found = _steps(6000), {}
    with tempfile.TemporaryDirectory() as folder:
        config = SynthConfig(
            out=Path(folder), scenes=3000, test_scenes=300, image_size=32, shapes=4
        )
        synthesise(config)
        every = open_references(Path(folder) / "refs.jsonl", SourceOptions())
        for arm, options in _arms(SHAPE_ARMS).items():
            runs = []
            for seed in range(seeds):
                begin = time.process_time()
                trained, runtime = _train(every, options, 32, steps, seed)
                scores = {"seconds": time.process_time() - begin}
                for split in ("test", "composition"):
                    part = [r for r in every if r.split == split]
                    scores |= _scores(trained, part, runtime, split, split == "test")
                runs.append(scores)
                _say(arm, seed, {k: round(v, 4) for k, v in scores.items() if "overall" in k})
            found[arm] = {name: spread([run[name] for run in runs]) for name in runs[0]}
    return {"steps": steps, "arms": found}


def _train(
    every: Sequence[Reference], options: dict[str, Any], size: int, steps: int, seed: int
) -> tuple[Trained, Runtime]:
    parts = Parts([r for r in every if r.split == "train"], [r for r in every if r.split == "val"])
    config = TrainConfig(data=Path("-"), image_size=size, **options)
    training = SegmentTraining(steps=steps, save_every=max(1, steps // 6))
    runtime = start(RunOptions(seed=seed, device="cpu"))
    model, vocabulary, _ = fit_segmenter(parts, config, training, runtime)
    return Trained("model", model, vocabulary), runtime


def _scores(
    trained: Trained, part: Sequence[Reference], runtime: Runtime, split: str, controls: bool
) -> dict[str, float]:
    found = {}
    rows = score(trained, part, runtime, Silent(), controls)
    for row, overlaps in rows.items():
        for kind, values in by_kind(overlaps, part).items():
            for name in ("overall", "mean", "prec@0.5"):
                found[f"{split} {row} {kind} {name}"] = values[name]
    return found


def photos(data: Path, seeds: int) -> dict[str, Any]:
    """Sentences derived by rule on coco128-seg, in five folds by photograph, and by hand.

    Every photograph is scored by the network that did not see it. A tenth of the training
    photographs chooses the weights. Sentences written by hand are scored by the same networks,
    as they stand and with their nouns as groups; those of which no word is known count as 0.
    Nothing is tuned on them.
    """
    folder = data / "referring" / "coco128-seg"
    derived, human = derived_sentences(folder), hand_written(folder)
    steps, found = _steps(1500), {}
    for arm, options in _arms(PHOTO_ARMS).items():
        runs = []
        for seed in range(seeds):
            begin = time.process_time()
            scores = _folds(derived, human, options, steps, seed)
            runs.append(scores | {"seconds": time.process_time() - begin})
            _say(arm, seed, {k: round(v, 4) for k, v in scores.items() if "overall" in k})
        found[arm] = {name: spread([run[name] for run in runs]) for name in runs[0]}
    return {"steps": steps, "derived": len(derived), "by hand": len(human), "arms": found}


def derived_sentences(folder: Path) -> list[Reference]:
    """Return all sentences that the rules make, with the classes in six groups."""
    config = DeriveConfig(photos=folder / "images", labels=folder / "labels", groups=True)
    return [r for scene in read_scenes(config) for r in derive(scene, config)]


def hand_written(folder: Path) -> list[Reference]:
    """Return the sentences written while looking at the photographs, with their masks.

    A line names the photograph and the numbers of the labelled things that are meant.
    """
    config = DeriveConfig(photos=folder / "images", labels=folder / "labels")
    scenes = {scene.image.name: scene for scene in read_scenes(config)}
    found = []
    for number, line in enumerate(HUMAN.read_text().splitlines()):
        values = json.loads(line)
        scene = scenes[values["image"]]
        shape = size_of(scene.image)
        things = [rasterise(scene.things[i].mask, shape, line) for i in values["things"]]
        mask = encode_runs(np.logical_or.reduce(things))
        found.append(
            Reference(scene.image, values["expression"], mask, str(number), kind="by hand")
        )
    return found


def in_groups(text: str) -> str:
    """Return a sentence with the nouns of COCO's classes, and words for persons, as groups."""
    for name in sorted((n for names in GROUPS.values() for n in names.split(",")), key=len)[::-1]:
        text = re.sub(rf"\b{name}\b", group_of(name), text)
    return re.sub(r"\w+", lambda word: "person" if word[0] in PERSONS else word[0], text)


def _folds(
    derived: Sequence[Reference],
    human: Sequence[Reference],
    options: dict[str, Any],
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Return the scores of all folds together: sums over all photographs."""
    grouped = [replace(r, expression=in_groups(r.expression)) for r in human]
    images = sorted({r.image for r in (*derived, *human)})
    order = np.random.default_rng(seed).permutation(len(images))
    fold_of = {images[i]: place % FOLDS for place, i in enumerate(order)}
    size = 128 if options["backbone"] == "efficientnet_lite0" else 64  # 16 x 16 cells either way
    rows: dict[str, list[tuple[Overlap | None, Reference]]] = {}
    for fold in range(FOLDS):
        rest = [r for r in derived if fold_of[r.image] != fold]
        aside = {image for image in images if fold_of[image] == (fold + 1) % FOLDS}
        aside = set(sorted(aside)[: len(images) // 10])
        every = [replace(r, split="val" if r.image in aside else "train") for r in rest]
        trained, runtime = _train(every, options, size, steps, seed)
        tests = [r for r in derived if fold_of[r.image] == fold]
        for row, overlaps in score(trained, tests, runtime, Silent(), True).items():
            rows.setdefault(row, []).extend(zip(overlaps, tests, strict=True))
        for row, sentences in (("by hand", human), ("by hand, in groups", grouped)):
            asked = [r for r in sentences if fold_of[r.image] == fold]
            rows.setdefault(row, []).extend(_asked(trained, asked, runtime))
        _say("fold", fold, options, len(tests))
    found = {}
    for row, pairs in rows.items():
        values = by_kind([overlap for overlap, _ in pairs], [r for _, r in pairs])
        for kind, scores in values.items():
            for name in ("overall", "mean", "prec@0.5"):
                found[f"{row} {kind} {name}"] = scores[name]
    return found


def _asked(
    trained: Trained, asked: Sequence[Reference], runtime: Runtime
) -> list[tuple[Overlap | None, Reference]]:
    """Return the overlaps of sentences by hand; one of which no word is known finds nothing."""
    found = score(trained, asked, runtime, Silent())["model"]
    return [
        (overlap if _known(trained, reference) else Overlap(0, _area(reference)), reference)
        for overlap, reference in zip(found, asked, strict=True)
    ]


def _area(reference: Reference) -> int:
    assert isinstance(reference.mask, Runs)
    return sum(reference.mask.counts[1::2])


def _known(trained: Trained, reference: Reference) -> bool:
    try:
        trained.vocabulary.check(reference.expression)
    except DataError:
        return False
    return True
