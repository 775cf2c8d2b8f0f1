"""Experiments of `upscale`: the paper's table, the meta signature, wrong and estimated kernels.

Set5, and 20 colour crops of 192 pixels (every tenth of BSDS300's training images, from the
fourth on), made small by the four kernels of the paper's tables. Choices (`tune`) were made on
eight other crops (every twenty-fifth from the first). Nothing here was used to train the weights;
the eight crops chose the best step. SETS=Set5 runs one of the sets, LIMIT=8 its first images,
KERNELS=0,1 some of the blurs: parts that can be jobs of their own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mlkit.core.media import find_images
from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.upscale import EvalConfig, TrainConfig, UpscaleTraining, evaluate, train
from mlkit.tasks.upscale.adaptation import clock
from mlkit.tasks.upscale.checkpoint import embedded
from mlkit.tasks.upscale.choice import choose, degradation_of
from mlkit.tasks.upscale.data import read_colour
from mlkit.tasks.upscale.degradation import crop_to_multiple
from mlkit.tasks.upscale.enlarger import Enlarger, Request
from mlkit.tasks.upscale.kernels import covariance
from mlkit.tasks.upscale.luma import scores
from mlkit.tasks.upscale.score import PAPER_KERNELS

from .__main__ import spread

BSDS = "BSDS300_train_color_192"
G20, ANISOTROPIC = PAPER_KERNELS[1:3]
# PSNR / SSIM on Y of the paper at x2 on Set5 (its anisotropic kernel is not known).
PUBLISHED = {
    "direct:gaussian:0.2": {"bicubic": 30.24, "ZSSR": 34.29, "MZSR 1": 33.14, "MZSR 10": 33.74},
    "direct:gaussian:2.0": {"bicubic": 28.73, "ZSSR": 34.90, "MZSR 1": 35.20, "MZSR 10": 36.05},
    "bicubic:gaussian:1.3": {"bicubic": 30.54, "ZSSR": 35.24, "MZSR 1": 35.18, "MZSR 10": 36.64},
}
RUN = RunOptions(threads=1)


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _paths(data: Path, name: str) -> list[Path]:
    images = data / "images"
    if name == "tune":
        return find_images(images / BSDS)[::25]
    paths = find_images(images / "Set5") if name == "Set5" else find_images(images / BSDS)[3::10]
    return paths[: int(os.environ.get("LIMIT", "0")) or None]


def _sets() -> list[str]:
    return os.environ.get("SETS", "Set5,BSDS").split(",")


def _kernels() -> list[str]:
    chosen = os.environ.get("KERNELS", "0,1,2,3").split(",")
    return [PAPER_KERNELS[int(number)] for number in chosen]


@contextmanager
def _folder(paths: list[Path]) -> Iterator[Path]:
    """Yield a folder with links to some images."""
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            (Path(folder) / path.name).symlink_to(path.resolve())
        yield Path(folder)


def _brief(methods: dict[str, dict[str, float]]) -> str:
    return json.dumps({k: [round(x, 4) for x in v.values()] for k, v in methods.items()})


def table(data: Path, seeds: int) -> dict[str, Any]:
    """All methods on both sets and the four kernels; the seed moves ZSSR alone."""
    found: dict[str, Any] = {"published": PUBLISHED}
    for name in _sets():
        found[name] = {}
        with _folder(_paths(data, name)) as folder:
            for kernel in _kernels():
                runs = []
                for seed in range(seeds):
                    methods = ("bicubic", "ibp", "pretrained", "joint", "zssr", "mzsr")
                    config = EvalConfig(
                        data=folder,
                        kernels=(kernel,),
                        methods=methods if seed == 0 else ("zssr", "mzsr"),
                    )
                    options = RunOptions(threads=1, seed=seed)
                    runs.append(evaluate(config, options).metrics[kernel])
                    _say(f"{name} {kernel} seed {seed}: {_brief(runs[-1])}")
                found[name][kernel] = {
                    method: {
                        key: spread([run[method][key] for run in runs if method in run])
                        for key in runs[0][method]
                    }
                    for method in runs[0]
                }
    return found


def zssr_long(data: Path, seeds: int) -> dict[str, Any]:
    """ZSSR for as long as it wants (3,000 steps at most) on Set5."""
    config = EvalConfig(
        data=data / "images" / "Set5",
        kernels=(G20,),
        methods=("zssr",),
        zssr_steps=3000,
    )
    runs = [evaluate(config, RunOptions(threads=1, seed=s)).metrics[G20] for s in range(seeds)]
    return {key: spread([run["zssr 3000"][key] for run in runs]) for key in ("psnr", "seconds")}


def signature(data: Path, seeds: int) -> dict[str, Any]:
    """One plain step from a meta-learned start and from the pre-trained one, nothing after it.

    A short training in the paper's form (centred bicubic input, one constant step size of 0.1,
    one inner step) of 16 channels, STEPS iterations after half as many of pre-training.
    """
    steps = int(os.environ.get("STEPS", "1000"))
    found: dict[str, Any] = {"steps": steps}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as out:
            run = Path(out) / "run"
            _train_in_paper_form(data, run, steps, seed)
            starts = {
                "meta": run / "best.safetensors",
                "pre-trained": run / "pretrain" / "best.safetensors",
            }
            for kernel in (G20, ANISOTROPIC):
                for name, weights in starts.items():
                    line = f"{kernel} {name} seed {seed}"
                    found[line] = _plain_steps(data, kernel, weights)
                    _say(f"{line}: {found[line]}")
    return found


def _train_in_paper_form(data: Path, run: Path, steps: int, seed: int) -> None:
    """Train on the crops of BSDS300 that are neither scored nor tuned on."""
    kept = {*_paths(data, "tune"), *find_images(data / "images" / BSDS)[3::10]}
    crops = [path for path in find_images(data / "images" / BSDS) if path not in kept]
    with _folder(crops) as training, _folder(_paths(data, "tune")) as val:
        config = TrainConfig(
            data=training,
            val=val,
            out=run,
            width=16,
            patch=32,
            inner_steps=1,
            alpha=0.1,
            learn_rates=False,
            aligned=False,
            support=4,
            query=4,
            pretrain=steps // 2,
        )
        options = UpscaleTraining(
            steps=steps, save_every=steps, batch_size=2, lr=1e-3, clip=1.0, schedule="cosine"
        )
        train(config, options, RunOptions(seed=seed, threads=1))


def _plain_steps(data: Path, kernel: str, weights: Path) -> dict[int, float]:
    """Return the mean PSNR on Set5 after 0, 1 and 5 plain steps of 0.1."""
    config = EvalConfig(data=Path(), weights=weights, optimizer="sgd", rate=0.1, back_project=0)
    return {
        steps: _mean_psnr(data, "Set5", kernel, config, Request("mzsr", steps))["psnr"]
        for steps in (0, 1, 5)
    }


def _mean_psnr(
    data: Path, name: str, kernel: str, config: EvalConfig, request: Request
) -> dict[str, float]:
    """Return mean PSNR on Y and seconds of one request over a set."""
    tool = Enlarger(config, start(RUN))
    sampling, _, text = kernel.partition(":")
    choice = choose(text, sampling, None)  # type: ignore[arg-type]
    results = []
    for path in _paths(data, name):
        truth = crop_to_multiple(read_colour(path)[None] / 255, 2)
        blur = degradation_of(choice, truth, 2, {}, str(path))
        low = (blur(truth).clamp(0, 1) * 255).round() / 255
        begin = clock(low.device)
        image = tool.enlarge(low, blur, request).image
        seconds = clock(low.device) - begin
        results.append((scores(image, truth, 2)[0], seconds))
    psnr, seconds = (sum(values) / len(values) for values in zip(*results, strict=True))
    return {"psnr": round(psnr, 3), "seconds": round(seconds, 3)}


def tune(data: Path, seeds: int) -> dict[str, Any]:
    """Choices on the tuning crops: Adam's rate, the number of steps, rounds of back-projection."""
    found: dict[str, Any] = {}
    for kernel in (PAPER_KERNELS[0], G20):
        for rate in (5e-4, 1e-3, 2e-3):
            for steps in (10, 30):
                for rounds in (0, 10):
                    key = f"{kernel} Adam {rate:g}, {steps} steps, {rounds} rounds"
                    found[key] = _adam(data, kernel, rate, steps, rounds)
                    _say(f"{key}: {found[key]}")
    return found


def _adam(data: Path, kernel: str, rate: float, steps: int, rounds: int) -> dict[str, float]:
    config = EvalConfig(data=Path(), optimizer="adam", rate=rate, back_project=rounds)
    return _mean_psnr(data, "tune", kernel, config, Request("mzsr", steps))


def mismatch(data: Path, seeds: int) -> dict[str, Any]:
    """What happens when the methods are told a wrong kernel, and when it is estimated."""
    found: dict[str, Any] = {}
    for name in _sets():
        found[name] = {}
        with _folder(_paths(data, name)) as folder:
            for kernel in (G20, ANISOTROPIC, PAPER_KERNELS[3]):
                found[name][kernel] = {}
                for told in (None, "estimate", "gaussian:0.2", "gaussian:5", "bicubic"):
                    config = EvalConfig(
                        data=folder,
                        kernels=(kernel,),
                        methods=("ibp", "mzsr"),
                        steps=(5,),
                        assume=told,
                    )
                    scored = evaluate(config, RUN).metrics[kernel]
                    row = {method: round(values["psnr"], 3) for method, values in scored.items()}
                    found[name][kernel][told or "the truth"] = row
                    _say(f"{name} {kernel} told {told}: {row}")
    return found


def blind(data: Path, seeds: int) -> dict[str, Any]:
    """Error of the estimated covariances (pixels squared), per sampling, over 7 blurs."""
    found: dict[str, Any] = {}
    blurs = ("0.5", "1", "2", "3", "4", "4,1,45", "4,1,120")
    estimators = embedded("mzsr").estimators
    for name in ("Set5", "BSDS"):
        for sampling in ("direct", "bicubic"):
            errors = []
            for path in _paths(data, name):
                truth = crop_to_multiple(read_colour(path)[None] / 255, 2)
                for text in blurs:
                    choice = choose(f"gaussian:{text}", sampling, None)  # type: ignore[arg-type]
                    blur = degradation_of(choice, truth, 2, {}, str(path))
                    low = (blur(truth).clamp(0, 1) * 255).round() / 255
                    unknown = choose("estimate", sampling, None)  # type: ignore[arg-type]
                    kernel = degradation_of(unknown, low, 2, estimators, str(path)).kernel
                    errors.append(covariance(kernel) - covariance(blur.kernel))
            error = torch.stack(errors)
            found[f"{name} {sampling}"] = {
                "root mean square": error.square().mean(0).sqrt().tolist(),
                "mean": error.mean(0).tolist(),
            }
            _say(f"{name} {sampling}: {found[f'{name} {sampling}']}")
    return found


def ablations(data: Path, seeds: int) -> dict[str, Any]:
    """Short trainings of a narrow network on BSDS crops: what each part of meta-learning brings."""
    arms: dict[str, dict[str, Any]] = {
        "complete": {},
        "first-order gradients": {"second_order": False},
        "one inner step": {"inner_steps": 1},
        "loss of the last step": {"step_weights": "last"},
        "annealed step weights": {"step_weights": "annealed"},
        "fixed step sizes": {"learn_rates": False},
        "centred enlarging, as in the paper": {"aligned": False},
        "no pre-training": {"pretrain": 0},
    }
    steps = int(os.environ.get("STEPS", "400"))
    found: dict[str, Any] = {"steps": steps}
    for name, change in arms.items():
        runs = [_short_training(data, change, steps, seed) for seed in range(seeds)]
        found[name] = {key: spread([run[key] for run in runs]) for key in runs[0]}
        _say(f"{name}: {found[name]}")
    return found


def _short_training(data: Path, change: dict[str, Any], steps: int, seed: int) -> dict[str, float]:
    settings = {"width": 16, "patch": 48, "inner_steps": 3, "support": 4, "query": 4}
    settings |= {"pretrain": steps, "alpha": 0.03, **change}
    with tempfile.TemporaryDirectory() as out, _folder(_paths(data, "tune")) as val:
        config = TrainConfig(
            data=data / "images" / BSDS, val=val, out=Path(out) / "run", **settings
        )
        options = UpscaleTraining(
            steps=steps, save_every=steps, batch_size=2, lr=5e-4, clip=1.0, schedule="cosine"
        )
        train(config, options, RunOptions(seed=seed, threads=1))
        line = (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    entry = json.loads(line)
    return {"adapted": entry["score"], "unadapted": entry["unadapted"]}
