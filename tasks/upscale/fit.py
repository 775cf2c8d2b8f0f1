"""Training: pre-training on bicubic pairs, then meta-learning; or one network for all blurs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Objective, Run, fit
from .adaptation import Plan, adapt, son_pair
from .backprojection import network_input
from .blur import fit_estimator
from .checkpoint import Start, load_start, save_start
from .config import TrainConfig, UpscaleTraining
from .data import Blurs, Patches, Tasks, read_colour, read_pictures
from .degradation import Degradation, Sampling, bicubic, crop_to_multiple
from .kernels import gaussian
from .losses import MetaObjective, PairObjective
from .model import Network, apply

HELD_OUT = 8  # images that choose the best weights where no others are given
CROP = 96  # pixels of them that are looked at
PRETRAINING = {"batch_size": 32, "lr": 4e-4, "schedule": "cosine", "accumulate": 1}
# Blurs on which the best weights are chosen: variances along both axes (per scale 2), degrees.
JUDGED = ((2.0, 2.0, 0.0), (4.0, 1.0, 0.8))


def train(
    config: TrainConfig,
    options: UpscaleTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train weights and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable images, `CheckpointError` for weights that do not fit.
    """
    options, progress = options or UpscaleTraining(), progress or Silent()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume, ("pretrain",))
    training, validation = hold_out(config.data, config.val, HELD_OUT)
    begin = _open(config, runtime.seed)
    size = {key: begin.network.settings[key] for key in ("width", "depth")}
    config = config.model_copy(update=size)  # that of --weights, where they are given
    settings = run.record("train upscale", runtime, config, options)
    pictures = read_pictures(training, progress)
    content = {"config": config.to_dict(), "training": options.to_dict(), "seed": runtime.seed}
    keep = _keeper(run, begin, content)
    if config.objective == "meta" and config.pretrain and config.weights is None:
        _pretrain(config, options, runtime, progress, run, begin, pictures, validation)
    fitted = fit(
        _objective(config, options, begin.network),
        _source(config, pictures),
        options,
        runtime,
        method="upscale",
        run=run,
        evaluate=_judge(validation, begin, config.inner_steps),
        save_best=keep,
        progress=progress,
    )
    content["metrics"] = {"psnr": fitted.best, "step": fitted.best_step}
    if runtime.is_main:
        done = begin
        if config.objective == "meta":
            done = _with_estimators(begin, pictures, runtime.seed, progress)
        save_start(run.best, done, content)
    result = _result(config, run, fitted, len(training))
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train upscale: {config.objective}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _pretrain(
    config: TrainConfig,
    options: UpscaleTraining,
    runtime: Runtime,
    progress: Progress,
    run: Run,
    begin: Start,
    pictures: Sequence[Tensor],
    validation: Sequence[Path],
) -> None:
    """Stage 1: the network learns to undo bicubic reduction; its run is in `pretrain`."""
    stage = Run.continued(run.folder / "pretrain")
    pairs = replace(begin, objective="bicubic")
    fit(
        PairObjective(begin.network),
        _source(config.model_copy(update={"objective": "bicubic"}), pictures),
        options.model_copy(update={**PRETRAINING, "steps": config.pretrain, "save_every": 0}),
        runtime,
        method="upscale",
        run=stage,
        evaluate=_judge(validation, pairs, 0),
        save_best=_keeper(stage, pairs, {"config": config.to_dict()}),
        progress=progress,
        title="pre-training",
    )


def _samplings(config: TrainConfig) -> tuple[Sampling, ...]:
    return ("direct", "bicubic") if config.sampling == "both" else (config.sampling,)


def _objective(config: TrainConfig, options: UpscaleTraining, network: Network) -> Objective:
    if config.objective != "meta":
        return PairObjective(network)
    return MetaObjective(
        network,
        config.inner_steps,
        options.batch_size,
        second_order=config.second_order,
        weights=config.step_weights,
        learn_rates=config.learn_rates,
    )


def _source(config: TrainConfig, pictures: Sequence[Tensor]) -> Patches | Tasks:
    plain = config.objective == "bicubic"
    blurs = Blurs(config.scales, _samplings(config), config.aligned, plain, config.input_rounds)
    patches = Patches(pictures, config.patch, blurs)
    return patches if config.objective != "meta" else Tasks(patches, config.support, config.query)


def _keeper(
    run: Run, begin: Start, content: Mapping[str, Any]
) -> Callable[[nn.Module, dict[str, float]], None]:
    def keep(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, Network)
        save_start(run.best, replace(begin, network=candidate), {**content, "metrics": entry})

    return keep


def _with_estimators(
    begin: Start, pictures: Sequence[Tensor], seed: int, progress: Progress
) -> Start:
    """Add the estimators of blurs for every scale and both samplings."""
    found = {
        f"{sampling}.{scale}": fit_estimator(pictures, scale, sampling, seed, progress)
        for scale in sorted(set(begin.scales))
        for sampling in begin.samplings
    }
    return replace(begin, estimators={name: c for name, c in found.items() if len(c)})


def _open(config: TrainConfig, seed: int) -> Start:
    """Return what training starts from."""
    network = Network(config.width, config.depth, config.inner_steps, config.alpha, seed)
    if config.weights is not None:
        given = load_start(config.weights).network
        width, depth = given.settings["width"], given.settings["depth"]
        network = Network(width, depth, config.inner_steps, config.alpha)
        network.load_state_dict({**network.state_dict(), **given.weights()})
    return Start(
        network,
        tuple(config.scales),
        _samplings(config),
        config.aligned,
        config.input_rounds,
        config.objective,
    )


def _judge(
    paths: Sequence[Path], begin: Start, steps: int
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that scores weights: mean PSNR in dB on blurred crops.

    Networks of the meta-objective are judged after `steps` plain steps on each crop, the others
    as they are.
    """
    scale = min(begin.scales)
    crops = [crop_to_multiple(_centre(read_colour(path))[None] / 255, scale) for path in paths]
    degradations = [bicubic(scale)]
    if begin.objective != "bicubic":
        degradations = [
            Degradation(gaussian(a * scale / 2, b * scale / 2, c).float(), scale, sampling)
            for a, b, c in JUDGED
            for sampling in begin.samplings
        ]
    steps = steps if begin.objective == "meta" else 0

    def judge(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Network)
        scores: list[list[float]] = [[], []]
        for crop in crops:
            for degradation in degradations:
                before, after = _scores(network, crop, degradation, begin, steps)
                scores[0].append(before)
                scores[1].append(after)
        means = [sum(values) / len(values) for values in scores]
        return {"score": means[1]} | ({"unadapted": means[0]} if steps else {})

    return judge


def _scores(
    network: Network, crop: Tensor, degradation: Degradation, begin: Start, steps: int
) -> tuple[float, float]:
    """Return the PSNR on one crop before and after `steps` plain steps."""
    device = next(network.parameters()).device
    crop = crop.to(device)
    low = degradation(crop).clamp(0, 1)
    x = network_input(low, degradation, begin.aligned, begin.rounds)
    weights: list[Mapping[str, Tensor]] = [network.weights()]
    if steps:
        pair = son_pair(
            low, degradation, aligned=begin.aligned, rounds=begin.rounds, margin=network.reach
        )
        snapshots = adapt(network, pair, Plan(steps, "sgd", snapshots=(steps,))).snapshots
        weights.append(snapshots.get(steps, weights[0]))
    with torch.no_grad():
        found = [psnr(apply(w, x).clamp(0, 1), crop) for w in weights]
    return found[0], found[-1]


def _centre(picture: Tensor) -> Tensor:
    top, left = (max(0, (n - CROP) // 2) for n in picture.shape[1:])
    return picture[:, top : top + CROP, left : left + CROP]


def _result(config: TrainConfig, run: Run, fitted: Fitted, images: int) -> Result:
    rows = [
        ("steps", f"{fitted.steps}"),
        ("validation PSNR", f"{fitted.best:.2f} dB at step {fitted.best_step}"),
    ]
    unadapted = fitted.history[-1].get("unadapted") if fitted.history else None
    if unadapted is not None:
        rows.append(("before adaptation, at the end", f"{unadapted:.2f} dB"))
    return Result(
        inputs={"data": str(config.data), "images": images},
        outputs={"run": str(run.folder), "weights": str(run.best)},
        metrics={"steps": fitted.steps, "psnr": fitted.best, "best_step": fitted.best_step},
        tables=(Table("Training", ("what", "value"), rows),),
        notes=(f"Next: mlkit eval upscale DIR --weights {run.best}",),
    )
