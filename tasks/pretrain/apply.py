"""The main job: from a folder of videos to an encoder in a run folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import DataError, UsageError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start, stream
from ...core.training import Fitted, Run, fit
from . import probe
from .checkpoint import describe, part, save_model
from .config import (
    PAPER_WARMUP,
    AugmentOptions,
    BackboneOptions,
    ClipOptions,
    MethodOptions,
    PretrainConfig,
    PretrainTraining,
    ReadOptions,
    resolve,
)
from .data import RandomClips, short_side
from .describe import outputs
from .footage import Footage, Gathered, check_lengths, gather
from .frameworks import Framework, Length, Views, build
from .listing import VideoSet, open_set
from .model import Encoder

MONITORED = 2000  # videos whose neighbours are looked at after each epoch
FILL, BIGGEST_QUEUE = 12, 65536


def pretrain(
    config: PretrainConfig,
    training: PretrainTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Learn an encoder from videos without labels; leaves `best.safetensors` in a run folder.

    Raises `DataError` for unusable videos, `UsageError` for options that do not fit them, and
    `DivergedError` when the loss is not finite or the embeddings collapse.
    """
    progress = progress or Silent()
    config, training = resolve(config, training or PretrainTraining())
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    clip = part(config, ClipOptions)
    videos = open_set(config.videos)
    settings = run.record("pretrain", runtime, config, training)
    found = read_videos(videos, config, run.folder, runtime, progress)
    short = check_lengths(found.footage, clip, progress)
    if config.clips == 1:
        progress.warn("--clips 1: both views show the same frames (the control without time)")
    content = {
        **describe(config),
        "method": part(config, MethodOptions).to_dict(),
        "config": config.to_dict(),
        "training": training.to_dict(),
        "videos": len(found.footage),
    }

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        save_model(run.best, candidate, {**content, "metrics": entry})

    _, fitted = learn(
        found, config, training, runtime, run=run, save_best=save_best, progress=progress
    )
    result = _summary(config, found, short, fitted, run)
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit pretrain: {config.method}, {config.clips} clips",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def read_videos(
    videos: VideoSet, config: Any, folder: Path, runtime: Runtime, progress: Progress
) -> Gathered:
    """Make the frames of `videos` available; of several processes the first one decodes."""
    read, short = part(config, ReadOptions), short_side(config.short_side, config.size)
    if runtime.world_size > 1 and not runtime.is_main:
        torch.distributed.barrier()
    found = gather(videos, read, short, folder / "cache", progress)
    if runtime.world_size > 1 and runtime.is_main:
        torch.distributed.barrier()
    return found


def learn(
    found: Gathered,
    config: PretrainConfig,
    training: PretrainTraining,
    runtime: Runtime,
    *,
    progress: Progress | None = None,
    **engine: Any,
) -> tuple[Framework, Fitted]:
    """Train on videos at hand and return the objective and how it ended; the last weights stay.

    `config` and `training` are what `resolve` made of the user's.
    """
    source = RandomClips(
        found.footage, part(config, ClipOptions), part(config, AugmentOptions), config.clips
    )
    plan = _plan(len(source), config, training, runtime)
    method = part(config, MethodOptions)
    if config.method == "moco":
        method = method.model_copy(update={"queue": _queue_size(config, len(source), plan.batch)})
    if runtime.precision == "fp16":
        # Taken clip by clip, gradients never meet the scaler that keeps them from vanishing.
        method = method.model_copy(update={"sequential": False})
    torch.manual_seed(runtime.seed)
    framework = build(part(config, BackboneOptions), method, plan).to(runtime.device)
    run = engine.get("run")
    if run is None or not run.resume:
        framework.start(_batches(source, plan, runtime))
    if config.preset == "paper" and "warmup" not in training.model_fields_set:
        training = training.model_copy(update={"warmup": round(PAPER_WARMUP * plan.steps)})
    labels = found.videos.labels if config.monitor else None
    monitor = _Monitor(found.footage, labels, config, runtime)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        # Labels must not choose the weights, and the losses of these methods say little.
        return {"score": float(framework.calls), **monitor(candidate)}

    fitted = fit(
        framework, source, training, runtime, method="pretrain",
        evaluate=evaluate, progress=progress, title=f"{config.method}, {config.clips} clips",
        **engine,
    )  # fmt: skip
    return framework, fitted


def _plan(
    videos: int, config: PretrainConfig, training: PretrainTraining, runtime: Runtime
) -> Length:
    """Return how long the training loop will run. Raises when a batch compares nothing."""
    videos = min(videos, training.limit) if training.limit else videos
    batch = min(training.batch_size, videos)
    batch -= batch % (runtime.world_size * training.accumulate)
    part_size = batch // (runtime.world_size * training.accumulate)
    if part_size < 2:
        raise (UsageError if training.batch_size < 2 or part_size else DataError)(
            f"{videos} videos in batches of {training.batch_size} leave {part_size} per process "
            "and part: there is nothing to compare a video with",
            "give --batch-size 2 or more, more videos, or a smaller --accumulate",
        )
    epoch = videos // batch
    steps = training.steps or training.epochs * epoch
    return Length(steps, epoch, batch // training.accumulate, runtime.seed, training.accumulate)


def _queue_size(config: PretrainConfig, videos: int, batch: int) -> int:
    """Return --queue, or the largest multiple of the batch below the number of videos."""
    if config.queue:
        return config.queue
    return max(1, min(BIGGEST_QUEUE, videos - 1) // batch) * batch


def _batches(source: RandomClips, plan: Length, runtime: Runtime) -> Iterator[Views]:
    """Yield batches of random videos for what comes before the first step."""
    size = plan.batch // runtime.world_size
    for number in itertools.count():
        generator = stream(runtime.seed, FILL, number)
        every = torch.randperm(len(source), generator=generator)
        every = every.repeat(1 + plan.batch // len(every))[: plan.batch]
        chosen = every[runtime.rank * size : (runtime.rank + 1) * size]
        batch = source.fetch(chosen, stream(runtime.seed, FILL, number, runtime.rank))
        yield Views(*(item.to(runtime.device) for item in batch))


@dataclass(frozen=True)
class _Monitor:
    """Accuracy of nearest neighbours among labelled videos, of which none was used in training."""

    footage: tuple[Footage, ...]
    labels: tuple[str, ...] | None
    config: PretrainConfig
    runtime: Runtime

    def __call__(self, candidate: nn.Module) -> dict[str, float]:
        labels = (self.labels or ())[:MONITORED]
        if len(set(labels)) < 2:
            return {}
        assert isinstance(candidate, Encoder)
        clip = part(self.config, ClipOptions)
        footage = self.footage[:MONITORED]
        views = outputs(candidate.backbone, footage, clip, 1, 1, 64, self.runtime, Silent())
        classes = sorted(set(labels))
        numbers = [classes.index(label) for label in labels]
        return {"knn": probe.knn_left_out(views[:, 0], numbers, min(20, len(labels) // 10 + 1))}


def _summary(
    config: PretrainConfig, found: Gathered, short: float, fitted: Fitted, run: Run
) -> Result:
    last = fitted.history[-1] if fitted.history else {}
    usual = config.dim**-0.5
    rows = [("loss", f"{last['loss']:.4g}"), ("spread of embeddings", f"{last['std']:.3f}")]
    rows.append(("spread if they filled the sphere", f"{usual:.3f}"))
    if "knn" in last:
        rows.append(("neighbours that name the label", f"{100 * last['knn']:.1f} %"))
    metrics = {
        "steps": fitted.steps,
        "videos": len(found.footage),
        "skipped": len(found.broken),
        "too short": short,
        **{name: value for name, value in last.items() if name != "step"},
    }
    return Result(
        inputs={"videos": str(config.videos)},
        outputs={"run": str(run.folder), "weights": str(run.best)},
        metrics=metrics,
        tables=(Table("At the end of training", ("", "value"), rows),),
        notes=(
            f"{len(found.footage):,} videos, {fitted.steps:,} steps; the last weights are kept",
            f"Next: mlkit eval pretrain labels.csv --weights {run.best}",
        ),
    )
