"""What one run works on: the model that the options name, and the images to measure it with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...core.checkpoint import is_checkpoint, read_metadata
from ...core.errors import CheckpointError, UsageError
from ...core.progress import Progress
from ...core.runtime import Runtime
from ...core.zoo import Recipe, import_factory
from . import zoo
from .backbone import Backbone
from .checkpoint import load, slices_from_dict
from .config import PruneConfig
from .data import Labelled, embedded_test_images, open_labelled
from .surgery import Slice


@dataclass(frozen=True)
class Job:
    """What all steps of one run share."""

    config: PruneConfig
    runtime: Runtime
    progress: Progress
    model: nn.Module
    recipe: Recipe
    earlier: dict[str, Slice]  # what an earlier pruning cut from the recipe's model
    folder: Path | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The model's input (C, H, W)."""
        return (self.recipe.input.channels, self.recipe.input.size, self.recipe.input.size)

    @property
    def schedule(self) -> str:
        """How the sparsity is spread over layers."""
        paper = "layer-dependent" if self.config.preset == "paper" else "uniform"
        return self.config.schedule or paper


def open_job(config: PruneConfig, runtime: Runtime, progress: Progress) -> Job:
    """Open the model that the options name, with its weights."""
    earlier: dict[str, Slice] = {}
    weights = Path(config.weights) if config.weights else None
    if weights is not None and weights.is_file() and is_checkpoint(weights):
        factory = import_factory(config.factory) if config.factory else None
        model, recipe = load(weights, factory=factory, with_recipe=True)
        if config.model not in (None, recipe.name):
            raise CheckpointError(
                f"{weights} holds a {recipe.name}, not a {config.model}", "leave out --model"
            )
        earlier = slices_from_dict(read_metadata(weights).content["slices"])
    else:
        if config.weights and not (config.model or config.factory):
            raise UsageError(
                f"--weights {config.weights}: this file does not say which model it is",
                "name it with --model or --factory",
            )
        name = config.model or zoo.EMBEDDED
        model, recipe = zoo.open_model(
            name, config.weights, config.num_classes, config.factory, config.random_init
        )
    if config.image_size is not None:
        spec = dataclasses.replace(
            recipe.input, size=config.image_size, resize=round(config.image_size * 256 / 224)
        )
        recipe = dataclasses.replace(recipe, input=spec)
    folder = config.resume or config.run
    return Job(config, runtime, progress, model.eval(), recipe, earlier, folder)


def evaluation_data(job: Job, backbone: Backbone) -> Labelled | None:
    """Return the labelled images to measure on: those given, or the embedded network's own."""
    config = job.config
    if config.eval_data is not None:
        if not backbone.is_whole_model:
            raise UsageError(
                f"--eval measures classifiers, and {job.recipe.name} is none",
                "use 'mlkit eval prune DIR --annotations FILE.json' afterwards",
            )
        return open_labelled(config.eval_data)
    other_weights = config.weights is not None or config.random_init
    is_embedded = job.recipe.name == zoo.EMBEDDED and not other_weights
    return embedded_test_images() if is_embedded else None
