"""Training the regulariser as a t-step denoiser of Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.media import hold_out
from ...core.metrics import psnr
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, stream
from ...core.training import Fitted, Run, fit
from .checkpoint import Prior, load_prior, save_prior
from .config import DenoiseTraining, TrainConfig
from .data import Patches, read_grey, read_pictures
from .losses import DenoisingObjective
from .model import ConvexRidge
from .problem import start_exact
from .tuning import Point, tune

HELD_OUT = 12  # images that choose the best weights where no others are given
CROP = 256  # pixels of them that are looked at
TUNING_CROP, TUNING_IMAGES = 96, 6  # every minimisation of the search is on all of them


def train(
    config: TrainConfig,
    options: DenoiseTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train a prior, tune it, and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable images, `CheckpointError` for weights that do not fit.
    """
    options, progress = options or DenoiseTraining(), progress or Silent()
    runtime = start_exact(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    training, validation = hold_out(config.data, config.val, HELD_OUT)
    settings = run.record("train denoise", runtime, config, options)
    prior = _open(config)
    prior.model.to(runtime.device)
    content = {"config": config.to_dict(), "training": options.to_dict(), "seed": runtime.seed}
    fitted = Fitted(0, 0.0, 0)
    if not config.tune_only:
        fitted = _fit(config, options, runtime, progress, run, prior, training, validation)
        content["metrics"] = {"psnr": fitted.best, "step": fitted.best_step}
    levels = [sigma for sigma in config.tune if sigma > 0]
    if levels and runtime.is_main:
        prior = replace(prior, tuning=_tune(prior.model, validation, levels, progress))
    if runtime.is_main:
        save_prior(run.best, prior, content)
    result = _result(config, run, prior, fitted, len(training))
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


def _fit(
    config: TrainConfig,
    options: DenoiseTraining,
    runtime: Runtime,
    progress: Progress,
    run: Run,
    prior: Prior,
    training: Sequence[Path],
    validation: Sequence[Path],
) -> Fitted:
    """Train the prior's network, which ends as the best one on the validation images."""
    pictures = read_pictures(training, progress=progress)
    source = Patches(pictures, config.patch, config.stride, config.sigma / 255)

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, ConvexRidge)
        save_prior(run.best, replace(prior, model=candidate), {"metrics": entry})

    return fit(
        DenoisingObjective(
            prior.model.train(), config.unroll, config.sigma, config.tv2, config.step_rule
        ),
        source,
        options,
        runtime,
        method="denoise",
        run=run,
        evaluate=_judge(validation, config, runtime),
        save_best=save_best,
        progress=progress,
    )


def _tune(
    model: ConvexRidge, paths: Sequence[Path], levels: Sequence[float], progress: Progress
) -> list[Point]:
    """Return lambda and mu for each noise level, chosen on the centres of images."""
    chosen = paths[:: math.ceil(len(paths) / TUNING_IMAGES)]
    pictures = [read_grey(path) for path in chosen]
    side = min(TUNING_CROP, *(min(picture.shape) for picture in pictures))
    clean = torch.stack([_centre(picture, side) for picture in pictures])[:, None] / 255
    with torch.no_grad():
        ridge = model.eval().ridge().pruned()
    return tune(ridge, clean.to(ridge.kernel), levels, progress)


def _result(config: TrainConfig, run: Run, prior: Prior, fitted: Fitted, images: int) -> Result:
    metrics: dict[str, Any] = {"steps": fitted.steps, "tuning": prior.tuning}
    rows = [("steps", f"{fitted.steps}")]
    if fitted.steps:
        metrics |= {"psnr": fitted.best, "best_step": fitted.best_step}
        rows.append(("validation PSNR", f"{fitted.best:.2f} dB at step {fitted.best_step}"))
    names = ("sigma", "strength", "scale", "psnr")
    tuned = [[f"{point[name]:.4g}" for name in names] for point in prior.tuning]
    weights = run.best
    return Result(
        inputs={"data": str(config.data), "images": images},
        outputs={"run": str(run.folder), "weights": str(weights)},
        metrics=metrics,
        tables=(
            Table("Training", ("what", "value"), rows),
            Table("Tuned", ("sigma", "lambda", "mu", "PSNR dB"), tuned),
        ),
        notes=(f"Next: mlkit eval denoise DIR --weights {weights}",),
    )


def _open(config: TrainConfig) -> Prior:
    """Return the prior to start from."""
    if config.weights is not None:
        given = load_prior(config.weights)
        if config.tune_only:
            return given
        model = given.model
        model.normalise()
    else:
        model = ConvexRidge(
            (8, config.channels),
            config.kernel_size,
            activation=config.activation,
            zero_mean=config.zero_mean,
        )
    return Prior(model, config.unroll, config.step_rule, config.sigma)


def _judge(
    paths: Sequence[Path], config: TrainConfig, runtime: Runtime
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that scores a model: mean PSNR of its t-step denoiser."""
    clean = [_centre(read_grey(path), CROP)[None, None] / 255 for path in paths]
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


def _centre(picture: Tensor, side: int) -> Tensor:
    top, left = (max(0, (n - side) // 2) for n in picture.shape)
    return picture[top : top + side, left : left + side]
