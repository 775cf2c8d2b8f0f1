"""Training: from a log to weights, with MostPopular as the mark to beat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ...core.files import sha256
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Run, fit
from .checkpoint import build, save_model
from .config import LossOptions, ModelOptions, RecommendTrainOptions, SplitOptions, TrainConfig
from .data import Items, read_items, read_log
from .losses import NextItem
from .model import AnyModel, Popular, Recommender
from .sampling import Histories
from .score import Protocol, score_users
from .split import Split, make_split

SPARSE_ROWS = 50_000  # larger tables are cheaper to update row by row (tests/benchmarks)
PRESETS: dict[str, dict[str, Any]] = {
    # Three times the paper's learning rate: a third of the steps for the same accuracy.
    "quick": {"steps": 1000, "save_every": 250, "patience": 2, "lr": 3e-3},
    "standard": {},
    "paper": {"steps": 1_000_000, "save_every": 1000, "patience": 50, "batch_size": 128},
}


def resolve(options: RecommendTrainOptions, preset: str, variant: str) -> RecommendTrainOptions:
    """Fill what the user did not give from the preset, and the variant's learning rate."""
    given = options.model_fields_set
    values = {name: value for name, value in PRESETS[preset].items() if name not in given}
    if "epochs" in given and "steps" not in given:
        values["steps"] = 0  # --epochs is meant
    if options.lr == 0 and (variant == "dr" or "lr" not in values):
        values["lr"] = 5e-3 if variant == "dr" else 1e-3
    return options.model_copy(update=values)


def fit_model(
    split: Split,
    model_options: ModelOptions,
    loss_options: LossOptions,
    options: RecommendTrainOptions,
    runtime: Runtime,
    *,
    sparse: Literal["auto", "on", "off"] = "auto",
    progress: Progress | None = None,
    **engine: Any,
) -> tuple[AnyModel, Fitted]:
    """Train on `split.train` and return the model with the best validation R@50, in eval mode.

    `engine` goes on to `core.training.fit`. Without validation users the lowest loss counts.
    """
    options = resolve(options, "standard", model_options.variant)
    torch.manual_seed(runtime.seed)
    model = build(model_options, split.counts)
    if isinstance(model, Popular):
        return model.to(runtime.device).eval(), Fitted(0, 0.0, 0)
    rows = len(split.counts)
    # The sparse kernels of gloo and nccl differ; several processes average dense gradients.
    large = rows > SPARSE_ROWS and runtime.world_size == 1 and loss_options.loss != "full"
    model.table.sparse = large if sparse == "auto" else sparse == "on"
    negatives = loss_options.negatives
    source = Histories(split.train, rows, model_options.max_history, negatives, loss_options.loss)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        assert isinstance(candidate, Recommender)
        return validate(candidate, split, model_options.max_history)

    fitted = fit(
        NextItem(model, loss_options),
        source,
        options,
        runtime,
        method="recommend",
        evaluate=evaluate if len(split.valid) else None,
        progress=progress,
        **engine,
    )
    return model.eval(), fitted


def validate(model: AnyModel, split: Split, width: int) -> dict[str, float]:
    """Return {"score": R@50, "hit": HR@50} on the validation users, in [0, 1]."""
    scores = score_users(model, split.valid, width, None, Protocol(lengths=(50,)))[0.0]
    means = {name: float(values.mean()) for name, values in scores.items()}
    return {"score": means["recall@50"], "hit": means["hit@50"]}


def train(
    config: TrainConfig,
    options: RecommendTrainOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train on a log and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for an unusable log, `UsageError` for a folder that holds a run already.
    """
    progress = progress or Silent()
    begin = time.monotonic()
    options = resolve(options or RecommendTrainOptions(), config.preset, config.variant)
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    log = read_log(config.log, config)
    split = make_split(log, config)
    items = Items(split.names)
    if config.items is not None:
        items = read_items(config.items, split.names, config)
    settings = run.record("train recommend", runtime, config, options)
    weights = run.best
    content = describe(config, options, config.log)

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, Recommender | Popular)
        save_model(weights, candidate, items, split.counts, {**content, "metrics": entry})

    model, fitted = fit_model(
        split,
        ModelOptions(**_part(config, ModelOptions)),
        LossOptions(**_part(config, LossOptions)),
        options,
        runtime,
        sparse=config.sparse,
        progress=progress,
        run=run,
        save_best=save_best,
    )
    if isinstance(model, Popular):
        save_best(model, {})
    result = _summary(config, split, model, fitted, weights, time.monotonic() - begin)
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train recommend: {config.variant}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def describe(config: TrainConfig, options: RecommendTrainOptions, log: Path) -> dict[str, Any]:
    """Return what a checkpoint says about how it was made."""
    return {
        "model": _part(config, ModelOptions),
        "split": _part(config, SplitOptions),
        "objective": _part(config, LossOptions),
        "training": options.to_dict(),
        "log": "" if str(log) == "-" else sha256(log),
    }


def _part(config: TrainConfig, kind: type[Any]) -> dict[str, Any]:
    """Return the options of `config` that `kind` declares, as plain values."""
    return config.model_dump(mode="json", include=set(kind.model_fields))


def _summary(
    config: TrainConfig,
    split: Split,
    model: AnyModel,
    fitted: Fitted,
    weights: Path,
    seconds: float,
) -> Result:
    metrics: dict[str, Any] = {"steps": fitted.steps, "best_step": fitted.best_step}
    rows = []
    if len(split.valid):
        for name, candidate in ((config.variant, model), ("MostPopular", Popular(split.counts))):
            candidate = candidate.to(model.item_vectors.device)
            found = validate(candidate, split, config.max_history)
            metrics[name] = {"recall@50": found["score"], "hit@50": found["hit"]}
            rows.append((name, f"{100 * found['score']:.2f}", f"{100 * found['hit']:.2f}"))
    parts = (len(split.train), len(split.valid), len(split.test))
    said = f"{parts[0]:,} users trained on, {parts[1]:,} to choose, {parts[2]:,} kept for a test"
    items = f"{len(split.names) - 1:,} items"
    how = f"best of {fitted.steps} steps at {fitted.best_step}, {seconds:.0f} s"
    following = f"Next: mlkit eval recommend {config.log} --weights {weights}"
    return Result(
        inputs={"log": str(config.log), "users": parts, "items": len(split.names) - 1},
        outputs={"run": str(weights.parent), "weights": str(weights)},
        metrics=metrics,
        tables=(Table("Validation users, %", ("model", "R@50", "HR@50"), rows),) if rows else (),
        notes=(f"{said}; {items}", how, following),
    )
