"""Fine-tuning: a classifier of videos on top of an encoder, or of a frozen one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import DataError, UsageError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Objective, Run, fit
from .apply import read_videos
from .checkpoint import Trained, describe, open_trained, part, save_model
from .config import (
    AugmentOptions,
    BackboneOptions,
    ClipOptions,
    FinetuneTraining,
    ReadOptions,
    TrainConfig,
)
from .data import Labelled, LabelledClips
from .describe import outputs
from .footage import Gathered, check_lengths
from .listing import class_numbers, open_set
from .model import Classifier

# The paper's crop of the probe and of fine-tuning: 224 of a short side of 256 to 320 pixels.
CROP = (0.49, 0.77)


class Recognition(Objective):
    """Cross-entropy of a classifier."""

    decay_vectors = False
    seen: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Labelled) -> dict[str, Tensor]:
        """Return the loss and the share of right answers."""
        logits = self.model(batch.clips).float()
        self.seen += 1
        right = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "top1": right}


def train(
    config: TrainConfig,
    training: FinetuneTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Fine-tune an encoder on labelled videos; leaves `best.safetensors` in a run folder.

    Raises `DataError` for unusable videos or a single class, `CheckpointError` for weights that
    do not fit.
    """
    progress = progress or Silent()
    training = training or FinetuneTraining()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    trained = _encoder(config)
    config = config.model_copy(update=trained.options())
    settings = run.record("train pretrain", runtime, config, training)
    data = _open(config, config.data, run, runtime, progress)
    labels, classes = class_numbers(_labels(data, config.data), str(config.data))
    check_lengths(data.footage, trained.clip, progress)
    val = None if config.val is None else _open(config, config.val, run, runtime, progress)
    if val is None:
        progress.warn("without --val the last weights are kept; nothing tells which are best")
    content = {
        **describe(config),
        "classes": classes,
        "config": config.to_dict(),
        "training": training.to_dict(),
    }

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        save_model(run.best, candidate, {**content, "metrics": entry})

    _, fitted = fine_tune(
        trained, data, labels, config, training, runtime, classes=classes, val=val,
        run=run, save_best=save_best, progress=progress,
    )  # fmt: skip
    result = _summary(config, data, classes, fitted, run)
    if runtime.is_main:
        write_report(
            run.folder / "report.html", "mlkit train pretrain", result,
            settings=settings, command=command, history=fitted.history,
        )  # fmt: skip
    return result


def _encoder(config: TrainConfig) -> Trained:
    if config.random_init and config.freeze:
        raise UsageError("--freeze with --random-init learns a layer on noise", "leave one out")
    backbone, clip = part(config, BackboneOptions), part(config, ClipOptions)
    read = part(config, ReadOptions)
    trained = open_trained(config.weights, backbone, clip, read, random_init=config.random_init)
    if trained.classes:
        raise UsageError(
            f"--weights {config.weights}: is fine-tuned already",
            "give an encoder of mlkit pretrain",
        )
    return trained


def _open(config: Any, path: Any, run: Run, runtime: Runtime, progress: Progress) -> Gathered:
    return read_videos(open_set(path), config, run.folder, runtime, progress)


def _labels(data: Gathered, where: Any) -> tuple[str, ...]:
    if data.videos.labels is None:
        raise DataError(f"{where} has no labels", "give class folders, or a list with a label")
    return data.videos.labels


def fine_tune(
    trained: Trained,
    data: Gathered,
    labels: list[int],
    config: TrainConfig,
    training: FinetuneTraining,
    runtime: Runtime,
    *,
    classes: list[str],
    val: Gathered | None = None,
    **engine: Any,
) -> tuple[Classifier, Fitted]:
    """Train a classifier whose backbone starts as `trained`, and return the kept weights."""
    torch.manual_seed(runtime.seed)
    model = Classifier(
        trained.backbone, len(classes), config.dropout, config.freeze, config.adapt_norms
    )
    model.backbone.load_state_dict(trained.network.state_dict())
    changes = AugmentOptions(
        crop_min=CROP[0], crop_max=CROP[1], colour=config.colour, grey=0, blur=0, flip=config.flip
    )
    source = LabelledClips(data.footage, labels, trained.clip, changes)
    objective = Recognition(model.train())
    targets = None if val is None else _known(_labels(val, config.val), classes, config)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        if val is None or targets is None:
            return {"score": float(objective.seen)}  # the last weights are taken
        probs = class_probs(candidate, val, trained.clip, config.views, 1, runtime, Silent())
        return {"score": int((probs.argmax(1) == targets).sum()) / len(targets)}

    fitted = fit(
        objective, source, training, runtime, method="pretrain",
        evaluate=evaluate, title="fine-tuning", **engine,
    )  # fmt: skip
    return model.eval(), fitted


def _known(labels: tuple[str, ...], classes: list[str], config: TrainConfig) -> Tensor:
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise DataError(f"{config.val}: class {unknown[0]} does not occur in {config.data}")
    return torch.tensor([classes.index(label) for label in labels])


def class_probs(
    network: nn.Module,
    data: Gathered,
    clip: ClipOptions,
    views: int,
    crops: int,
    runtime: Runtime,
    progress: Progress,
) -> Tensor:
    """Return class probabilities (N, K): softmax averaged over the views of each video."""
    logits = outputs(network, data.footage, clip, views, crops, 64, runtime, progress)
    return logits.softmax(2).mean(1)


def _summary(
    config: TrainConfig, data: Gathered, classes: list[str], fitted: Fitted, run: Run
) -> Result:
    last = fitted.history[-1]
    rows = [("training loss", f"{last['loss']:.4g}"), ("right in training", f"{last['top1']:.3f}")]
    metrics: dict[str, Any] = {
        "steps": fitted.steps,
        "videos": len(data.footage),
        "classes": len(classes),
        "skipped": len(data.broken),
        "loss": last["loss"],
        "top1": last["top1"],
    }
    if config.val is not None:
        metrics |= {"best": fitted.best, "best_step": fitted.best_step}
        rows.append((f"top-1 on {config.val}", f"{100 * fitted.best:.1f} %"))
    return Result(
        inputs={"data": str(config.data)},
        outputs={"run": str(run.folder), "weights": str(run.best)},
        metrics=metrics,
        tables=(Table("Fine-tuning", ("", "value"), rows),),
        notes=(f"Next: mlkit eval pretrain test.csv --weights {run.best}",),
    )
