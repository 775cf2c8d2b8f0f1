"""Training in spite of wrong labels: from images to a run folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...core.errors import UsageError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Run, fit
from .checkpoint import save_model
from .config import LabelnoiseTraining, MixMatchOptions, NetworkOptions, TrainConfig
from .cotraining import CoTraining, Draws
from .data import Images, open_images
from .model import Pair
from .score import accuracies, predict

# Of the paper's code for CIFAR-10; --preset paper fills what was not given.
PAPER: dict[str, Any] = {"network": "preact18", "warmup_epochs": 10, "lambda_u": "25"}
PAPER_EPOCHS = 100


def fit_pair(
    images: Images,
    network: NetworkOptions,
    options: MixMatchOptions,
    selector: str,
    training: LabelnoiseTraining,
    runtime: Runtime,
    *,
    val: Images | None = None,
    progress: Progress | None = None,
    **engine: Any,
) -> tuple[Pair, CoTraining, Fitted]:
    """Train two networks and return them with the best validation (else the last) weights.

    An epoch is half a pass over the images in labelled and half in unlabelled samples.
    """
    torch.manual_seed(runtime.seed)
    model = Pair(network.network, len(images.classes))
    draws = Draws(max(1, len(images) // 2))
    batch = min(training.batch_size, len(draws))
    objective = CoTraining(model, images, options, selector, len(draws) // batch, runtime)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        if val is None:
            return {"score": float(objective.seen)}  # the last weights are taken
        assert isinstance(candidate, Pair)
        found = accuracies(predict(candidate, val, runtime), val, images.counts.tolist())
        return {"score": found["balanced"], "top1": found["top1"]}

    fitted = fit(
        objective,
        draws,
        training,
        runtime,
        method="labelnoise",
        evaluate=evaluate,
        progress=progress,
        **engine,
    )
    return model.eval(), objective, fitted


def resolve(
    config: TrainConfig, training: LabelnoiseTraining
) -> tuple[TrainConfig, LabelnoiseTraining]:
    """Fill what the user did not give from the preset."""
    if config.preset == "paper":
        given = config.model_fields_set
        config = config.model_copy(update={k: v for k, v in PAPER.items() if k not in given})
        if not {"epochs", "steps"} & training.model_fields_set:
            training = training.model_copy(update={"epochs": PAPER_EPOCHS})
    return config, training


def train(
    config: TrainConfig,
    training: LabelnoiseTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train on images of which some labels are wrong; leaves `best.safetensors` in a run folder.

    Raises `DataError` for unusable images, `UsageError` for a folder that holds a run already.
    """
    progress = progress or Silent()
    config, training = resolve(config, training or LabelnoiseTraining())
    runtime = start(run_options or RunOptions())
    run = _open_run(config, training)
    images = open_images(config.data, config.image_size, progress)
    val = None
    if config.val is not None:
        val = open_images(config.val, config.image_size, progress, images.classes)
    for text in _warnings(images, val):
        progress.warn(text)
    settings = run.record("train labelnoise", runtime, config, training)
    content = {
        "network": config.model_dump(mode="json", include=set(NetworkOptions.model_fields)),
        "classes": list(images.classes),
        "counts": images.counts.tolist(),
        "config": config.to_dict(),
        "training": training.to_dict(),
    }

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, Pair)
        save_model(run.best, candidate, {**content, "metrics": entry})

    _, objective, fitted = fit_pair(
        images,
        NetworkOptions(**config.model_dump(include=set(NetworkOptions.model_fields))),
        MixMatchOptions(**config.model_dump(include=set(MixMatchOptions.model_fields))),
        config.selector,
        training,
        runtime,
        val=val,
        progress=progress,
        run=run,
        save_best=save_best,
    )
    result = _summary(config, images, objective, fitted)
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train labelnoise: {config.selector}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _open_run(config: TrainConfig, training: LabelnoiseTraining) -> Run:
    """Return the run folder. Raises `UsageError` when it, or an option, cannot be used."""
    if training.accumulate > 1 or training.limit:
        raise UsageError("--accumulate and --limit do not fit labels that are selected anew")
    return Run.open(config.out, config.resume)


def _warnings(images: Images, val: Images | None) -> list[str]:
    found = []
    for part in (images, *([val] if val is not None else [])):
        if part.broken:
            first = ", ".join(list(part.broken)[:5])
            found.append(f"{len(part.broken)} images cannot be read and were skipped: {first}")
    if val is None:
        found.append("without --val the last weights are kept; nothing tells which are best")
    return found


def _summary(config: TrainConfig, images: Images, objective: CoTraining, fitted: Fitted) -> Result:
    trusted = objective.clean.all(0).cpu()
    kept = torch.bincount(images.labels[trusted], minlength=len(images.classes)).tolist()
    folder = config.resume or config.out
    metrics: dict[str, Any] = {
        "steps": fitted.steps,
        "best_step": fitted.best_step,
        "trusted": float(trusted.float().mean()),
    }
    if config.val is not None:
        metrics |= {"best": fitted.best, "last": fitted.history[-1]["score"]}
    rows = [
        (name, f"{count:,}", f"{n:,}")
        for name, count, n in zip(images.classes, images.counts.tolist(), kept, strict=True)
    ]
    notes = [f"both networks trust {100 * metrics['trusted']:.0f} % of {len(images):,} labels"]
    if config.val is not None:
        notes.append(
            f"balanced accuracy on {config.val}: best {100 * metrics['best']:.1f} % "
            f"(step {fitted.best_step}), last {100 * metrics['last']:.1f} %"
        )
    notes.append(f"Next: mlkit eval labelnoise test/ --weights {folder}/best.safetensors")
    return Result(
        inputs={"data": str(config.data), "images": len(images)},
        outputs={"run": str(folder), "weights": str(folder / "best.safetensors")},
        metrics=metrics,
        tables=(Table("Classes", ("class", "images", "trusted"), rows),),
        notes=tuple(notes),
    )
