"""The images to repair on: the user's, those of an earlier run, or new synthetic ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import InterruptedRun
from ...core.files import check_writable
from ...core.media import contact_sheet, write_image
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import start
from .backbone import Backbone, find_backbone
from .config import PruneConfig, SynthesizeConfig
from .data import read_unlabelled
from .job import Job, open_job
from .synthesis import check_statistics, load_images, make_settings, save_images, synthesise

SHEET = 32  # images shown on a contact sheet


def synthesize(
    config: SynthesizeConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Synthesise images from a model and write them to a file that `prune` repairs on.

    Raises `DataError` when the model holds no statistics to synthesise from.
    """
    progress = progress or Silent()
    for path in (config.out, config.plot):
        if path is not None:
            check_writable(path, config.overwrite)
    shared = {k: v for k, v in config if k in PruneConfig.model_fields}
    job = open_job(PruneConfig(**shared), start(run_options or RunOptions()), progress)
    images = repair_images(job, find_backbone(job.model, job.shape))
    save_images(config.out, images)
    outputs = {"images": str(config.out)}
    if config.plot is not None:
        sheet = contact_sheet(job.recipe.input.denormalise(images[:SHEET]), 8)
        write_image(config.plot, sheet)
        outputs["contact sheet"] = str(config.plot)
    return Result(
        inputs={"model": job.recipe.name, "weights": config.weights or "default"},
        outputs=outputs,
        metrics={"images": len(images), "size": job.recipe.input.size},
        notes=(f"{len(images)} images; repair with: mlkit prune --synthetic {config.out}",),
    )


def repair_images(job: Job, backbone: Backbone) -> Tensor:
    """Return the inputs to repair on: the user's, stored ones, or new synthetic ones."""
    config, spec = job.config, job.recipe.input
    settings = make_settings(config, spec.size)
    if config.images is not None:
        return read_unlabelled(config.images, spec, settings.images, job.progress)
    if config.synthetic is not None:
        return load_images(config.synthetic, spec)
    check_statistics(backbone.root, trained=not config.random_init)
    classes = 0
    if backbone.is_whole_model and settings.lambda_main > 0:
        classes = _count_classes(job)
    folder = job.folder / "synthetic" if job.folder else None
    try:
        images = synthesise(
            backbone.root, spec, settings, job.runtime, job.progress, classes=classes, folder=folder
        )
    except KeyboardInterrupt as error:
        if folder is None:
            raise
        raise InterruptedRun(
            f"interrupted while synthesising; finished batches are in {folder}",
            f"continue with --resume {job.folder}",
        ) from error
    if job.folder is not None:
        save_images(job.folder / "images.safetensors", images)
    return images


def _count_classes(job: Job) -> int:
    with torch.no_grad():
        example = torch.zeros(1, *job.shape, device=next(job.model.parameters()).device)
        return int(job.model(example).shape[1])
