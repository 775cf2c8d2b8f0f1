"""Scoring: add noise to clean images, take it away again, compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.media import find_images
from ...core.metrics import psnr, ssim
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, stream
from .checkpoint import Prior, embedded_prior, load_prior
from .config import EvalConfig
from .data import read_grey
from .model import Ridge
from .problem import Denoising, start_exact
from .tv import denoise_tv, tuned_weight

Method = Callable[[Tensor], tuple[Tensor, int, bool]]


@dataclass(frozen=True)
class Score:
    """Of one method on one image: dB, structural similarity, iterations, seconds, converged."""

    psnr: float
    ssim: float
    iterations: int
    seconds: float
    converged: bool


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score the prior beside total variation and the noisy images, on white Gaussian noise.

    Neither noise nor results are clipped to [0, 1]. Raises `DataError` for unusable images, and
    when a result did not converge (unless `best_effort`).
    """
    progress = progress or Silent()
    runtime = start_exact(run_options or RunOptions())
    paths = find_images(config.data)[: config.limit or None]
    own = load_prior(config.weights) if config.weights else None
    scores: dict[float, dict[str, list[Score]]] = {}
    with progress.task("scoring", len(paths) * len(config.sigma)) as task:
        for sigma in config.sigma:
            methods = {name: _method(name, config, sigma, own, runtime) for name in config.methods}
            scores[sigma] = {"noisy": [], **{name: [] for name in methods}}
            for number, path in enumerate(paths):
                clean = read_grey(path)[None, None].to(runtime.device) / 255
                noise = torch.randn(clean.shape, generator=stream(runtime.seed, 5, number))
                noisy = clean + sigma / 255 * noise.to(clean)
                scores[sigma]["noisy"].append(_score(noisy, clean, 0, 0.0, True))
                for name, method in methods.items():
                    begin = time.monotonic()
                    found, iterations, converged = method(noisy)
                    seconds = time.monotonic() - begin
                    if not converged and not config.best_effort:
                        _refuse(path, name, iterations, config)
                    scores[sigma][name].append(_score(found, clean, iterations, seconds, converged))
                task.advance(1, path.name)
    return _result(config, len(paths), scores)


def _method(
    name: str, config: EvalConfig, sigma: float, own: Prior | None, runtime: Runtime
) -> Method:
    """Return a function from a noisy image to (clean image, iterations, converged)."""
    if name == "tv":
        return _total_variation(config, sigma)
    prior = own or embedded_prior(sigma, "tstep" if name == "tstep" else "prox")
    prior.model.to(runtime.device)
    with torch.no_grad():
        ridge = prior.model.ridge().pruned()
    return _few_steps(prior, ridge) if name == "tstep" else _minimised(config, sigma, prior, ridge)


def _total_variation(config: EvalConfig, sigma: float) -> Method:
    def run(noisy: Tensor) -> tuple[Tensor, int, bool]:
        found, _ = denoise_tv(
            noisy, tuned_weight(sigma), tolerance=config.tol, iterations=10 * config.iterations
        )
        return found.x, found.iterations, found.converged

    return torch.no_grad()(run)


def _few_steps(prior: Prior, ridge: Ridge) -> Method:
    if prior.unroll == 0:
        raise UsageError("these weights do not tell for how many steps", "score --method crr")

    def run(noisy: Tensor) -> tuple[Tensor, int, bool]:
        problem = Denoising.of(noisy, ridge)
        found = prior.model.denoise(problem.y, prior.unroll, prior.rule, ridge)
        return problem.crop(found), prior.unroll, True

    return torch.no_grad()(run)


def _minimised(config: EvalConfig, sigma: float, prior: Prior, ridge: Ridge) -> Method:
    scaled = ridge.scaled(*prior.parameters(sigma, config.lam, config.mu))

    def run(noisy: Tensor) -> tuple[Tensor, int, bool]:
        problem = Denoising.of(noisy, scaled)
        found = problem.solve(tolerance=config.tol, iterations=config.iterations)
        return problem.crop(found.x), found.iterations, found.converged

    return run


def _score(found: Tensor, clean: Tensor, iterations: int, seconds: float, converged: bool) -> Score:
    return Score(psnr(found, clean), ssim(found, clean), iterations, seconds, converged)


def _refuse(path: Path, name: str, iterations: int, config: EvalConfig) -> None:
    raise DataError(
        f"{path}: {name} did not reach --tol {config.tol:g} in {iterations} iterations",
        "raise --iterations or --tol, or accept it with --best-effort",
    )


def _result(config: EvalConfig, images: int, scores: dict[float, dict[str, list[Score]]]) -> Result:
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for sigma, methods in scores.items():
        metrics[f"{sigma:g}"] = {name: _mean(list_) for name, list_ in methods.items()}
        for name, mean in metrics[f"{sigma:g}"].items():
            cells = (f"{mean['psnr']:.2f}", f"{mean['ssim']:.4f}", f"{mean['iterations']:.0f}")
            rows.append((f"{sigma:g}", name, *cells, f"{mean['seconds']:.2f}"))
    columns = ("sigma", "method", "PSNR dB", "SSIM", "iterations", "s / image")
    return Result(
        inputs={"data": str(config.data), "images": images},
        metrics=metrics,
        tables=(Table(f"{images} images, means", columns, rows),),
    )


def _mean(scores: list[Score]) -> dict[str, float]:
    names = ("psnr", "ssim", "iterations", "seconds", "converged")
    return {name: sum(float(getattr(s, name)) for s in scores) / len(scores) for name in names}
