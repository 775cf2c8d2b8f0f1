"""Training a classifier from labelled images: what one prunes later, and the embedded network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.augment import mirrored, shifted
from ...core.checkpoint import read_metadata
from ...core.errors import DataError
from ...core.inputs import InputSpec
from ...core.options import RunOptions, TrainOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import start, stream
from ...core.training import Objective, Run, fit
from ...core.zoo import Recipe, check_name, input_spec
from .checkpoint import load, save_model, slices_from_dict
from .config import TrainConfig
from .data import Labelled, open_labelled, to_inputs
from .score import accuracy
from .surgery import Slices


class _Classification(Objective):
    """Cross-entropy of a classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the loss and the accuracy on images (N, C, H, W) and labels (N,)."""
        images, labels = batch
        logits = self.model(images)
        hits = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": hits}


@dataclasses.dataclass(frozen=True)
class _Augmented:
    """Labelled images with random shifts and flips."""

    data: Labelled
    spec: InputSpec
    flip: bool
    shift: int

    def __len__(self) -> int:
        return len(self.data)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs (n, C, H, W) and labels (n,)."""
        images = self.data.images
        chosen = images[indices] if isinstance(images, Tensor) else [images[i] for i in indices]
        inputs = to_inputs(chosen, self.spec)
        if self.shift:
            inputs = shifted(inputs, self.shift, generator)
        if self.flip:
            inputs = mirrored(inputs, generator)
        return inputs, self.data.labels[indices]


def train(
    config: TrainConfig,
    options: TrainOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train a classifier and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable images, `UsageError` for an unknown network.
    """
    options = options or TrainOptions()
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    data = open_labelled(config.data, split="train")
    training, validation = _split(data, config.val, runtime.seed)
    model, recipe, slices = _open(config, data)
    model.to(runtime.device).train()
    settings = run.record("train prune", runtime, config, options)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        if len(validation) == 0:
            return {}
        score = accuracy(candidate, validation, recipe.input, runtime)["top1"]
        return {"score": score.value}

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        content = {"metrics": entry, "config": config.to_dict(), "training": options.to_dict()}
        save_model(run.best, candidate, recipe, slices, content)

    source = _Augmented(training, recipe.input, config.flip, config.shift)
    fitted = fit(
        _Classification(model),
        source,
        options,
        runtime,
        method="prune",
        run=run,
        evaluate=evaluate,
        save_best=save_best,
        progress=progress,
    )
    metrics = {"steps": fitted.steps, "best": fitted.best, "best_step": fitted.best_step}
    rows = [(name, f"{value:g}") for name, value in metrics.items()]
    result = Result(
        inputs={"data": str(config.data), "images": len(training)},
        outputs={"run": str(run.folder), "weights": str(run.best)},
        metrics=metrics,
        tables=(Table("Training", ("what", "value"), rows),),
        notes=(f"Next: mlkit prune --weights {run.folder}/best.safetensors",),
    )
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train prune: {config.model}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _split(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split at random into training and validation images."""
    order = torch.randperm(len(data), generator=stream(seed, 2))
    held_out = int(len(data) * share)
    if held_out == len(data) or len(data) < 2:
        raise DataError(f"{len(data)} images are too few to train on")

    def take(places: Tensor) -> Labelled:
        images: Sequence[Path] | Tensor
        if isinstance(data.images, Tensor):
            images = data.images[places]
        else:
            images = [data.images[i] for i in places]
        return Labelled(images, data.labels[places], data.classes)

    return take(order[held_out:]), take(order[:held_out])


def _open(config: TrainConfig, data: Labelled) -> tuple[nn.Module, Recipe, Slices]:
    """Return the network to train, its recipe, and what was cut from it before."""
    if config.weights is not None:
        model, recipe = load(config.weights, with_recipe=True)
        return model, recipe, slices_from_dict(read_metadata(config.weights).content["slices"])
    check_name(config.model)
    spec = input_spec(config.model)
    if config.image_size is not None:
        spec = dataclasses.replace(spec, size=config.image_size, resize=config.image_size)
    recipe = Recipe(config.model, len(data.classes), spec)
    return recipe.build(), recipe, {}
