"""Experiments of `denoise`: the tables on BSD68 and Set12, what the parts bring, TV's weights."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlkit.core.errors import DivergedError
from mlkit.core.media import find_images
from mlkit.core.metrics import psnr
from mlkit.core.options import RunOptions
from mlkit.core.runtime import stream
from mlkit.tasks.denoise import DenoiseTraining, EvalConfig, TrainConfig, evaluate, train
from mlkit.tasks.denoise.checkpoint import embedded_prior, load_prior
from mlkit.tasks.denoise.data import read_grey
from mlkit.tasks.denoise.tuning import coarse_to_fine
from mlkit.tasks.denoise.tv import denoise_tv

from .__main__ import spread

LEVELS = (5.0, 15.0, 25.0, 50.0)
# BSD68 in dB: the published models of t = 10 and t = 5 (score files of the official repository),
# trained at the noise of the column; 15 is the model of sigma 5 by minimisation.
PUBLISHED = {
    "5": {"t-step t=10": 36.96, "t-step t=5": 36.94, "prox t=10": 36.93, "prox t=5": 36.91},
    "15": {"prox t=10, sigma 5": 30.51},
    "25": {"t-step t=10": 28.06, "t-step t=5": 28.02, "prox t=10": 28.07, "prox t=5": 28.04},
}
ABLATION_STEPS = 3000
TOLERANCE = 1e-3  # relative distance to the minimiser; 1e-4 changes PSNR by 0.02 dB at most


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def bsd68(data: Path, seeds: int) -> dict[str, Any]:
    """All 68 images at four noise levels; the published figures beside ours."""
    return {"scores": _table(data / "images" / "BSD68_gray", seeds), "published": PUBLISHED}


def set12(data: Path, seeds: int) -> dict[str, Any]:
    """Set12, on which lambda and mu of the prior were chosen (TV's weight was not)."""
    return {"scores": _table(data / "images" / "Set12_gray", seeds)}


def _table(folder: Path, seeds: int) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    chosen = os.environ.get("LEVELS")  # to run some noise levels as a job of their own
    for sigma in map(float, chosen.split(",")) if chosen else LEVELS:
        runs = []
        for seed in range(seeds):
            methods = ("crr", "tstep", "tv")
            config = EvalConfig(data=folder, sigma=(sigma,), methods=methods, tol=TOLERANCE)
            found = evaluate(config, RunOptions(seed=seed, threads=1))
            runs.append(found.metrics[f"{sigma:g}"])
            line = {
                name: [round(values[key], 4) for key in ("psnr", "ssim", "iterations", "seconds")]
                for name, values in runs[-1].items()
            }
            _say(f"{folder.name} sigma {sigma:g} seed {seed}: {line}")
        scores[f"{sigma:g}"] = {
            name: {key: spread([run[name][key] for run in runs]) for key in runs[0][name]}
            for name in runs[0]
        }
    return scores


def cross(data: Path, seeds: int) -> dict[str, Any]:
    """Which of the two embedded priors serves all noise levels? Tuned and scored on Set12."""
    scores: dict[str, Any] = {}
    for trained in (5.0, 25.0):
        prior = embedded_prior(trained, "tstep")
        scores[f"trained at {trained:g}"] = prior.tuning
    return scores


def tv_weights(data: Path, seeds: int) -> dict[str, Any]:
    """The weights of TV that are best on 24 training images (none of BSD68 or Set12)."""
    paths = find_images(data / "images" / "BSD400_gray")[:: 400 // 24][:24]
    clean = torch.stack([read_grey(path) for path in paths])[:, None] / 255
    weights = {}
    for sigma in LEVELS:
        noise = torch.randn(clean.shape, generator=stream(0, 7, int(sigma)))
        noisy = clean + sigma / 255 * noise

        def score(weight: float, _: float, noisy: Tensor = noisy) -> float:
            found, _ = denoise_tv(noisy, weight, tolerance=1e-3)
            return sum(psnr(a, b) for a, b in zip(found.x, clean, strict=True)) / len(clean)

        start = (0.003 * sigma, 1.0)
        best, _ = coarse_to_fine(score, start, (1.6, 1.0), finest=1.02)
        weights[f"{sigma:g}"] = {"weight": best, "psnr": score(best, 1.0)}
        _say(f"sigma {sigma:g}: {weights[f'{sigma:g}']}")
    return weights


def ablations(data: Path, seeds: int) -> dict[str, Any]:
    """Short trainings at sigma 25, t = 1: what each part brings on Set12 (crops of 256)."""
    arms: dict[str, dict[str, Any]] = {
        "complete": {},
        "ReLU instead of splines": {"activation": "relu"},
        "no penalty on slopes": {"tv2": 0.0},
        "filters with a mean": {"zero_mean": False},
        "averaged steps, t = 2": {"step_rule": "averaged", "unroll": 2},
        "descent steps, t = 2": {"unroll": 2},
    }
    table: dict[str, Any] = {}
    for name, change in arms.items():
        runs = [_short_training(data, change, seed) for seed in range(seeds)]
        table[name] = {key: spread([run[key] for run in runs]) for key in runs[0]}
        _say(f"{name}: {table[name]['psnr']['mean']:.2f} dB")
    return {"steps": ABLATION_STEPS, "arms": table, "wrong constant": _wrong_constant()}


def _short_training(data: Path, change: dict[str, Any], seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            data=data / "images" / "BSD400_gray",
            val=data / "images" / "Set12_gray",
            out=Path(folder) / "run",
            sigma=25,
            tune=(),
            **change,
        )
        save_every = ABLATION_STEPS // 4
        options = DenoiseTraining(steps=ABLATION_STEPS, save_every=save_every, warmup=50)
        result = train(config, options, RunOptions(seed=seed, threads=1))
        model = load_prior(Path(folder) / "run" / "best.safetensors").model
    rising = 0.0
    if model.coefficients is not None:
        with torch.no_grad():
            values = model.ridge().activation.values  # type: ignore[attr-defined]
        rising = float((values.diff(dim=1) > 0).sum()) / len(values)
    return {"psnr": result.metrics["psnr"], "rising cells per spline": rising}


def _wrong_constant() -> str:
    """Descent with a Lipschitz constant that is ten times too small."""
    from mlkit.core.solvers import accelerated_gradient
    from mlkit.tasks.denoise.problem import Denoising

    with torch.no_grad():
        ridge = embedded_prior(25).model.ridge().pruned()
        ridge = ridge.scaled(200 / ridge.lipschitz(), 1.0)
        noisy = torch.rand(1, 1, 64, 64, generator=stream(0, 8))
        problem = Denoising.of(noisy, ridge)
        try:
            found = accelerated_gradient(problem.gradient, problem.y, lipschitz=20)
        except DivergedError as error:
            return f"diverges: {error.message}"
        return f"not converged, change {found.change:.1e}" if not found.converged else "converged"
