"""Training the regulariser as a t-step denoiser of Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.config import to_toml
from ...core.errors import DataError, UsageError
from ...core.files import write_text
from ...core.media import find_images
from ...core.metrics import psnr
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start, stream
from ...core.training import Run, fit
from .checkpoint import Prior, load_prior, save_prior
from .config import DenoiseTraining, TrainConfig
from .data import Patches, read_grey, read_pictures
from .losses import DenoisingObjective
from .model import ConvexRidge

HELD_OUT = 12  # images that choose the best weights where no others are given
CROP = 256


def train(
    config: TrainConfig,
    options: DenoiseTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train a prior and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable images, `CheckpointError` for weights that do not fit.
    """
    options, progress = options or DenoiseTraining(), progress or Silent()
    runtime = start(run_options or RunOptions())
    run = Run(config.resume or config.out, resume=config.resume is not None)
    if not run.resume and run.state.exists():
        raise UsageError(
            f"{run.folder} holds a run already",
            f"continue it with --resume {run.folder}, or name another folder with -o",
        )
    training, validation = _split(config)
    model = _open(config)
    source = Patches(
        read_pictures(training, progress=progress), config.patch, config.stride, config.sigma / 255
    )
    settings = {**config.to_dict(), **options.to_dict(), "seed": runtime.seed, "resume": None}
    if runtime.is_main:
        write_text(run.folder / "run.toml", to_toml("train denoise", settings))

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, ConvexRidge)
        content = {"metrics": entry, "config": config.to_dict(), "training": options.to_dict()}
        prior = Prior(candidate, config.unroll, config.step_rule, config.sigma)
        save_prior(run.folder / "best.safetensors", prior, content)

    fitted = fit(
        DenoisingObjective(model, config.unroll, config.sigma, config.tv2, config.step_rule),
        source,
        options,
        runtime,
        method="denoise",
        run=run,
        evaluate=_judge(validation, config, runtime),
        save_best=save_best,
        progress=progress,
    )
    metrics = {"steps": fitted.steps, "psnr": fitted.best, "best_step": fitted.best_step}
    rows = [(name, f"{value:g}") for name, value in metrics.items()]
    result = Result(
        inputs={"data": str(config.data), "images": len(training), "patches": len(source)},
        outputs={"run": str(run.folder), "weights": str(run.folder / "best.safetensors")},
        metrics=metrics,
        tables=(Table("Training", ("what", "value"), rows),),
        notes=(f"Next: mlkit eval denoise DIR --weights {run.folder}/best.safetensors",),
    )
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train denoise: t = {config.unroll}, sigma = {config.sigma:g}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _split(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Return the images to train on and those that choose the best weights."""
    paths = find_images(config.data)
    if config.val is not None:
        return paths, find_images(config.val)
    held_out = min(HELD_OUT, len(paths) // 4)
    if held_out == 0:
        raise DataError(f"{config.data}: {len(paths)} images are too few to train on")
    chosen = paths[:: len(paths) // held_out][:held_out]
    return [path for path in paths if path not in chosen], chosen


def _open(config: TrainConfig) -> ConvexRidge:
    if config.weights is not None:
        return load_prior(config.weights).model.train()
    return ConvexRidge(
        (8, config.channels),
        config.kernel_size,
        activation=config.activation,
        zero_mean=config.zero_mean,
    )


def _judge(
    paths: Sequence[Path], config: TrainConfig, runtime: Runtime
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that scores a model: mean PSNR of its t-step denoiser."""
    clean = [_centre(read_grey(path))[None, None] / 255 for path in paths]
    noise = stream(0, 3)
    noisy = [x + config.sigma / 255 * torch.randn(x.shape, generator=noise) for x in clean]

    @torch.no_grad()
    def judge(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, ConvexRidge)
        ridge, scores = model.ridge(), []
        for x, y in zip(clean, noisy, strict=True):
            found = model.denoise(y.to(runtime.device), config.unroll, config.step_rule, ridge)
            scores.append(psnr(found.cpu(), x))
        return {"score": sum(scores) / len(scores)}

    return judge


def _centre(picture: Tensor) -> Tensor:
    top, left = (max(0, (n - CROP) // 2) for n in picture.shape)
    return picture[top : top + CROP, left : left + CROP]
