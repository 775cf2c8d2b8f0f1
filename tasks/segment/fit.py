"""Training: from references to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core.errors import DataError, UsageError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Run, fit
from .backbone import load_pretrained
from .checkpoint import METHOD, save_model
from .config import ModelOptions, SegmentTraining, TrainConfig
from .data import Samples, fits
from .losses import Referring
from .metrics import Overlap, summarise
from .model import Segmenter
from .references import Reference, open_references
from .text import MIRRORED, SPECIAL, Vocabulary, exchange

VALIDATION = 0.1  # share of the photographs, where the data has no split "val"
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 600, "save_every": 200},
    "standard": {},
    "paper": {
        "backbone": "resnet101",
        "width": "paper",
        "image_size": 320,
        "tokenizer": "official",
        "enlargement": "legacy",
        "augment": False,
        "steps": 800_000,
        "batch_size": 1,
        "lr": 2.5e-4,
        "clip": 0.0,
        "save_every": 100_000,
    },
}


@dataclass(frozen=True)
class Parts:
    """References to train on, and those that choose the best weights."""

    train: list[Reference]
    val: list[Reference]


def resolve(config: TrainConfig, training: SegmentTraining) -> tuple[TrainConfig, SegmentTraining]:
    """Fill what the user did not give from the preset."""
    values = PRESETS[config.preset]
    mine, engine = (
        {k: v for k, v in values.items() if k in kind.model_fields and k not in given}
        for kind, given in (
            (TrainConfig, config.model_fields_set),
            (SegmentTraining, training.model_fields_set),
        )
    )
    if "epochs" in training.model_fields_set:
        engine.pop("steps", None)  # --epochs is meant
    return config.model_copy(update=mine), training.model_copy(update=engine)


def divide(references: Sequence[Reference], seed: int) -> Parts:
    """Return what is trained on and what chooses.

    Splits that the data names count: all but val and test* is trained on. Without "val", a tenth of
    the photographs is set aside. Raises `DataError` when nothing is left to train on.
    """
    named = [r for r in references if not r.split.startswith(("test", "val", "comp"))]
    val = [r for r in references if r.split == "val"]
    if not val:
        images = list(dict.fromkeys(r.image for r in named))
        order = np.random.default_rng(seed).permutation(len(images))
        aside = {images[i] for i in order[: round(VALIDATION * len(images))]}
        val = [r for r in named if r.image in aside]
        named = [r for r in named if r.image not in aside]
    if not named or not val:
        raise DataError(
            f"{len(named)} references to train on and {len(val)} to choose by are too few",
            "training wants references whose split is neither val nor test",
        )
    return Parts(named, val)


def build(config: TrainConfig, words: int, runtime: Runtime) -> Segmenter:
    """Return the network to train, its pretrained backbone filled and frozen where it is."""
    torch.manual_seed(runtime.seed)
    model = Segmenter(
        ModelOptions(**config.model_dump(include=set(ModelOptions.model_fields))), words
    )
    if config.backbone == "mini" and config.weights is None:
        return model
    if not config.random_init:
        load_pretrained(model.backbone, config.backbone, config.weights)
    if not config.fine_tune:
        model.freeze_backbone()
    return model


def fit_segmenter(
    parts: Parts,
    config: TrainConfig,
    training: SegmentTraining,
    runtime: Runtime,
    *,
    progress: Progress | None = None,
    **engine: Any,
) -> tuple[Segmenter, Vocabulary, Fitted]:
    """Train on `parts.train` and return the weights with the best mean IoU on `parts.val`.

    `engine` goes on to `core.training.fit`.
    """
    progress = progress or Silent()
    vocabulary = vocabulary_of(parts, config)
    model = build(config, len(vocabulary), runtime).to(runtime.device)
    size = model.options.image_size
    jitter = config.augment and not model.frozen
    samples = Samples(parts.train, vocabulary, size, config.augment, jitter)
    held = Samples(parts.val, vocabulary, size)
    for part in (samples, held):
        part.preload(progress)
    photographs = len({r.image for r in (*parts.train, *parts.val)})
    if model.frozen and fits(model, photographs * (2 if config.augment else 1)):
        for part in (samples, held):
            part.encode(model, runtime, progress)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        assert isinstance(candidate, Segmenter)
        found = validate(candidate, held, runtime)
        return {"score": found["mean"], "overall": found["overall"]}

    fitted = fit(
        Referring(model, config.l2),
        samples,
        training,
        runtime,
        method=METHOD,
        evaluate=evaluate,
        progress=progress,
        **engine,
    )
    return model.eval(), vocabulary, fitted


def vocabulary_of(parts: Parts, config: TrainConfig) -> Vocabulary:
    """Return the words of the training sentences, and their mirror words if mirrored."""
    texts = [reference.expression for reference in parts.train]
    if config.augment:
        texts += [exchange(text, MIRRORED) for text in texts]
    return Vocabulary.build(texts, config.tokenizer, config.min_count)


@torch.no_grad()
def validate(model: Segmenter, samples: Samples, runtime: Runtime) -> dict[str, float]:
    """Return the scores at the network's own size, in [0, 1]."""
    overlaps = []
    for places in torch.arange(len(samples)).split(32):
        batch = samples.fetch(places, torch.Generator())
        tokens = batch["tokens"].to(runtime.device)
        with runtime.autocast():
            if "features" in batch:
                features = [level.to(runtime.device).float() for level in batch["features"]]
            else:
                features = model.features(batch["images"].to(runtime.device).float() / 255)
            logits = model.enlarge(model.refer(features, tokens)).float().cpu()
        pairs = zip((logits > 0).numpy(), batch["masks"].numpy() > 0, strict=True)
        overlaps += [Overlap.of(found, truth) for found, truth in pairs]
    return summarise(overlaps)


def train(
    config: TrainConfig,
    training: SegmentTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train on references; leaves `best.safetensors` in a run folder.

    Raises `DataError` for unusable data, `UsageError` for a folder that holds a run already.
    """
    progress = progress or Silent()
    config, training = resolve(config, training or SegmentTraining())
    if config.fine_tune and config.backbone == "mini":
        raise UsageError("--fine-tune: mini is trained as a whole anyway", "leave it out")
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    parts = divide(open_references(config.data, config), runtime.seed)
    settings = run.record("train segment", runtime, config, training)
    vocabulary = vocabulary_of(parts, config)
    content = {"config": config.to_dict(), "training": training.to_dict()}

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, Segmenter)
        save_model(run.best, candidate, vocabulary, {**content, "metrics": entry})

    model, _, fitted = fit_segmenter(
        parts, config, training, runtime, progress=progress, run=run, save_best=save_best
    )
    result = _summary(config, parts, vocabulary, model, fitted)
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train segment: {config.backbone}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _summary(
    config: TrainConfig, parts: Parts, vocabulary: Vocabulary, model: Segmenter, fitted: Fitted
) -> Result:
    folder = config.resume or config.out
    best = next((e for e in fitted.history if e["step"] == fitted.best_step), fitted.history[-1])
    mix = getattr(model.fusion, "mix", None)
    metrics: dict[str, Any] = {
        "steps": fitted.steps,
        "best_step": fitted.best_step,
        "mean_iou": best["score"],
        "overall_iou": best["overall"],
        "words": len(vocabulary) - len(SPECIAL),
        "mix": None if mix is None else mix.tolist(),
    }
    rows = [
        (name, f"{len(part):,}", f"{len({r.image for r in part}):,}")
        for name, part in (("trained on", parts.train), ("chosen by", parts.val))
    ]
    scores = f"{100 * best['overall']:.1f} overall, {100 * best['score']:.1f} mean IoU"
    return Result(
        inputs={"data": str(config.data), "references": len(parts.train)},
        outputs={"run": str(folder), "weights": str(folder / "best.safetensors")},
        metrics=metrics,
        tables=(Table("References", ("", "sentences", "photographs"), rows),),
        notes=(
            f"{metrics['words']:,} words; best at step {fitted.best_step}: {scores}",
            f"Next: mlkit eval segment {config.data} --weights {folder}/best.safetensors",
        ),
    )
