"""The main job: a trained model in, a smaller and repaired one out."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...core import accounting
from ...core.config import to_toml
from ...core.errors import CheckpointError, DataError, UsageError
from ...core.files import check_writable, write_text
from ...core.metrics import Proportion
from ...core.options import RunOptions, TrainOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table, human_count
from ...core.runtime import start
from ...core.training import Run
from .backbone import Backbone, choose_taps, find_backbone, locate
from .checkpoint import save_model
from .config import PruneConfig
from .data import Labelled
from .images import repair_images
from .job import Job, evaluation_data, open_job
from .measure import measure_costs, metrics_of, tables_of
from .pictures import write_pictures
from .plan import Cut, Layer, Plan, find_layers, make_plan
from .repair import compensate, finetune, reestimate_norms
from .score import accuracy
from .surgery import Slice, apply_slices, compose
from .synthesis import SMALL

# Steps and batch of the fine-tuning for small and for large images.
_REPAIR_STEPS = {"quick": 60, "standard": 2000}
_PAPER_EPOCHS = {True: 200, False: 5}
_PAPER_DECAY = {True: 0.75, False: 0.6}
_DEFAULT_DECAY = 0.75
_REPAIR_LR = 0.01


@dataclass(frozen=True, kw_only=True)
class PruneResult(Result):
    """What `prune` returns; `model` is the pruned network in eval mode (None on a dry run)."""

    model: nn.Module | None = None


def prune(
    config: PruneConfig | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> PruneResult:
    """Prune a model's backbone, repair it, measure both, and write one safetensors file.

    Raises `UsageError` for an unknown model, `CheckpointError` for weights that are missing or
    do not fit, and `DataError` when nothing can be pruned or no images can be synthesised.
    """
    config = config or PruneConfig()
    progress = progress or Silent()
    _check_outputs(config)
    runtime = start(run_options or RunOptions())
    job = open_job(config, runtime, progress)
    backbone = find_backbone(job.model, job.shape)
    layers = find_layers(backbone, config.scope, config.criterion, config.keep)
    plan = make_plan(backbone, layers, config, job.schedule)
    if not layers or (config.sparsity > 0 and len(plan.removed) == 0):
        raise DataError(
            f"nothing to prune in {job.recipe.name}: {len(layers)} layers may lose channels",
            "raise --sparsity, lower --min-channels, or try --scope all",
        )
    _warn(job, backbone)
    if config.dry_run:
        return _dry_run(job, plan)
    data = evaluation_data(job, backbone)
    scores = {"original": _score(job, job.model, data)} if data else {}
    _start_folder(job, run_options or RunOptions())
    images = repair_images(job, backbone) if config.repair and config.sparsity > 0 else None
    pruned, slices, cuts, history = _prune_in_stages(job, backbone, images, data, scores)
    if data:
        scores["repaired" if images is not None else "pruned"] = _score(job, pruned, data)
    device, runs = runtime.device, config.latency_runs
    costs = measure_costs(backbone, job.model, pruned, job.shape, device, runs)
    metrics = {
        "criterion": config.criterion,
        "schedule": job.schedule,
        **metrics_of(costs, scores, cuts, history),
    }
    content = {"config": config.to_dict(), "plan": plan.to_dict(), "metrics": metrics}
    save_model(config.out, pruned, job.recipe, compose(job.earlier, slices), content)
    result = PruneResult(
        inputs={"model": job.recipe.name, "weights": config.weights or "default"},
        outputs={"model": str(config.out), **({"run": str(job.folder)} if job.folder else {})},
        metrics=metrics,
        tables=tables_of(costs, scores),
        notes=_notes(job, metrics),
        model=pruned.eval(),
    )
    write_pictures(config, job.folder, cuts, images, job.recipe.input, result, command, history)
    return result


# --- preparation ---


def _check_outputs(config: PruneConfig) -> None:
    if config.dry_run:
        return
    check_writable(config.out, config.overwrite or config.resume is not None)
    if config.plot is not None:
        check_writable(config.plot)
    if config.resume is not None:
        if not (config.resume / "run.toml").exists():
            raise CheckpointError(
                f"nothing to resume: {config.resume} is not a run folder of mlkit prune",
                "give the folder that an earlier command had as --run",
            )
    elif config.run is not None and (config.run / "run.toml").exists() and not config.overwrite:
        raise UsageError(
            f"--run {config.run} holds a run already",
            f"continue it with --resume {config.run}, or pass --overwrite",
        )


def _start_folder(job: Job, run_options: RunOptions) -> None:
    """Write the settings into the run folder, from which an interrupted run is resumed."""
    if job.folder is None:
        return
    if job.config.resume is None:  # images of an earlier run are not this run's
        shutil.rmtree(job.folder / "synthetic", ignore_errors=True)
    settings = {**job.config.to_dict(), **run_options.to_dict(), "resume": None}
    write_text(job.folder / "run.toml", to_toml("prune", settings))


def _warn(job: Job, backbone: Backbone) -> None:
    if job.config.random_init:
        job.progress.warn("the weights are random: pruning an untrained net is a smoke test only")
    for node in backbone.outputs:
        shape = backbone.graph.shapes.get(node.name, ())
        if len(shape) == 4 and max(shape[2:]) < 2:
            job.progress.warn(
                f"images of {job.recipe.input.size} pixels leave feature maps of one pixel; "
                "statistics will be poor, try a larger --image-size"
            )
            return


def _score(job: Job, model: nn.Module, data: Labelled) -> Proportion:
    model.to(job.runtime.device).eval()
    return accuracy(model, data, job.recipe.input, job.runtime)["top1"]


# --- pruning and repair ---


def _prune_in_stages(
    job: Job,
    backbone: Backbone,
    images: Tensor | None,
    data: Labelled | None,
    scores: dict[str, Proportion],
) -> tuple[nn.Module, dict[str, Slice], list[Cut], list[dict[str, float]]]:
    """Prune and repair one part of the layers after the other; each result teaches the next."""
    config = job.config
    model = job.model
    slices: dict[str, Slice] = {}
    cuts: list[Cut] = []
    history: list[dict[str, float]] = []
    for stage in range(config.stages):
        if stage > 0:
            backbone = find_backbone(model, job.shape)
        layers = find_layers(backbone, config.scope, config.criterion, config.keep)
        chosen = _part(layers, stage, config.stages)
        plan = make_plan(backbone, chosen, config, job.schedule)
        pruned = copy.deepcopy(model)
        apply_slices(pruned, plan.slices)
        _repair(job, backbone, pruned, plan, images, stage, data, scores, history)
        model, slices = pruned, compose(slices, plan.slices)
        cuts += plan.cuts
    return model, slices, cuts, history


def _part(layers: list[Layer], stage: int, stages: int) -> list[Layer]:
    """Return every layer whose turn it is: consecutive layers, parts of nearly equal length."""
    size = math.ceil(len(layers) / stages)
    return layers[stage * size : (stage + 1) * size]


def _repair(
    job: Job,
    backbone: Backbone,
    pruned: nn.Module,
    plan: Plan,
    images: Tensor | None,
    stage: int,
    data: Labelled | None,
    scores: dict[str, Proportion],
    history: list[dict[str, float]],
) -> None:
    """Compensate and fine-tune `pruned` in place, noting the cheap baselines' scores."""
    config = job.config
    root = pruned.get_submodule(backbone.prefix)
    if config.compensate:
        done, total = compensate(backbone, root, plan.slices, plan.removed)
        job.progress.info(f"compensated {done} of {total} layers that lost inputs")
    if images is None or len(plan.removed) == 0:
        return
    if data is not None and stage == 0:
        scores["pruned"] = _score(job, pruned, data)
        baseline = copy.deepcopy(pruned)
        reestimate_norms(baseline.get_submodule(backbone.prefix), images)
        scores["norms re-estimated"] = _score(job, baseline, data)
    run = None
    if job.folder is not None:
        folder = job.folder / f"stage-{stage + 1}"
        run = Run.continued(folder) if config.resume is not None else Run(folder)
    fitted = finetune(
        backbone,
        root,
        choose_taps(backbone, plan.removed, config.tap),
        images,
        _repair_options(config, images),
        job.runtime,
        job.progress,
        tap=config.tap,
        loss=config.loss,
        alpha_method=config.alpha_method,
        update_norms=_updates_norms(config, backbone, images),
        trial=config.repair_lr is None and config.preset != "paper",
        run=run,
    )
    history += fitted.history


def _updates_norms(config: PruneConfig, backbone: Backbone, images: Tensor) -> bool:
    """Whether BatchNorm follows the repair images; small batches of large ones mislead it."""
    if config.bn != "auto":
        return config.bn == "train"
    return backbone.is_whole_model and images.shape[-1] <= SMALL


def _repair_options(config: PruneConfig, images: Tensor) -> TrainOptions:
    small = images.shape[-1] <= SMALL
    batch = min(config.repair_batch or (64 if small else 16), len(images) * 7 // 8)
    decay = _DEFAULT_DECAY
    if config.preset == "paper":
        steps = _PAPER_EPOCHS[small] * max(1, len(images) * 7 // 8 // batch)
        decay = _PAPER_DECAY[small]
    else:
        steps = _REPAIR_STEPS[config.preset]
    steps = config.repair_steps or steps
    return TrainOptions(
        steps=steps,
        batch_size=batch,
        lr=config.repair_lr or _REPAIR_LR,
        schedule="step",
        decay_at=decay,
        save_every=max(1, steps // 10),
    )


def _notes(job: Job, metrics: dict[str, Any]) -> tuple[str, ...]:
    notes = [f"criterion {metrics['criterion']}, schedule {job.schedule}, scope {job.config.scope}"]
    if job.schedule == "layer-dependent":
        notes.append("the layer-dependent schedule saves parameters rather than multiply-adds")
    latency = metrics["latency_ms"]
    if latency["after"]["median"] > 0.97 * latency["before"]["median"]:
        notes.append(
            "fewer multiply-adds, but no gain in latency at batch 1: try --round-to 8 or 16"
        )
    return tuple(notes)


def _dry_run(job: Job, plan: Plan) -> PruneResult:
    """Show the plan and what it would cost, without touching a file."""
    pruned = copy.deepcopy(job.model)
    apply_slices(pruned, plan.slices)
    shape = (1, *job.shape)
    roots = [locate(model)[0] for model in (job.model, pruned)]
    parameters = [accounting.count_parameters(model) for model in (job.model, pruned)]
    macs = [accounting.count_macs(root, shape) for root in roots]
    rows = [(cut.layer, str(cut.before), str(cut.after)) for cut in plan.cuts]
    rows.append(("parameters", human_count(parameters[0]), human_count(parameters[1])))
    rows.append(("multiply-adds", human_count(macs[0]), human_count(macs[1])))
    metrics = {
        "parameters": {"before": parameters[0], "after": parameters[1]},
        "macs": {"before": macs[0], "after": macs[1]},
        "layers": plan.to_dict()["layers"],
    }
    return PruneResult(
        inputs={"model": job.recipe.name},
        metrics=metrics,
        tables=(Table("Plan", ("layer", "channels", "kept"), rows),),
        notes=("dry run: nothing was written",),
    )
