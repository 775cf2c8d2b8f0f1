"""Training in stages: detector, then tracker on a frozen encoder; or everything at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.checkpoint import load_into
from ...core.errors import CheckpointError, UsageError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Run, fit
from .backbone import load_pretrained
from .checkpoint import THRESH, Trained, open_trained, save_model
from .config import ClipOptions, ModelOptions, PostOptions, TrackTrainOptions, TrainConfig
from .data import Clips, Footage, FrozenCache, make_footage
from .follow import follow_queries
from .metrics import Scores, score_sequence
from .model import ColTrack
from .objective import ClipLoss
from .sequence import find_sequences

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"width": 8, "dim": 64, "ffn": 128, "encoder_layers": 0, "size": 256, "queries": 40},
    "standard": {},
    "paper": {
        "backbone": "resnet50", "dim": 256, "ffn": 2048, "levels": 4, "encoder_layers": 6,
        "decoder_layers": 6, "queries": 300, "size": 1440, "augment": "full", "mosaic": 1.0,
        "mixup": 1.0, "epochs": 60, "lr": 1e-4, "schedule": "step", "decay_at": 5 / 6,
        "fine_tune": True,
    },
}  # fmt: skip
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
SHAPES = ("backbone", "width", "dim", "heads", "levels", "encoder_layers", "decoder_layers",
          "encoder_points", "decoder_points", "ffn", "queries", "irm", "classes")  # fmt: skip


def resolve(
    config: TrainConfig, options: TrackTrainOptions
) -> tuple[TrainConfig, TrackTrainOptions]:
    """Fill what the user did not give from --init's file, then from the preset."""
    preset = PRESETS[config.preset]
    for_config = {k: v for k, v in preset.items() if k in TrainConfig.model_fields}
    for_training = {k: v for k, v in preset.items() if k in TrackTrainOptions.model_fields}
    if config.init is not None:
        stored = open_trained(config.init).options
        for name in SHAPES:
            value = getattr(stored, name)
            if name in config.model_fields_set and getattr(config, name) != value:
                raise CheckpointError(
                    f"--{name.replace('_', '-')} {getattr(config, name)}: "
                    f"{config.init} has {value}",
                    f"leave the option away, or train without --init {config.init}",
                )
            for_config[name] = value
        for_config.setdefault("size", stored.size)
    if config.stage == "track" and config.init is None:
        raise UsageError("--stage track needs the detector of --stage detect", "add --init FILE")
    fill = {k: v for k, v in for_config.items() if k not in config.model_fields_set}
    chosen = {k: v for k, v in for_training.items() if k not in options.model_fields_set}
    return config.model_copy(update=fill), options.model_copy(update=chosen)


def train(
    config: TrainConfig,
    options: TrackTrainOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train on MOTChallenge sequences and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable data, `CheckpointError` when --init and flags disagree,
    `UsageError` for a folder that holds a run already.
    """
    progress = progress or Silent()
    begin = time.monotonic()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    config, options = resolve(config, options or TrackTrainOptions())
    sequences = [
        (info, info.truth()) for path in config.data for info in find_sequences(path, progress)
    ]
    footage = make_footage(sequences, len(config.class_names), config.val)
    model = _start_model(config, runtime)
    settings = run.record("train track", runtime, config, options)
    content = {"clips": _part(config, ClipOptions), "training": options.to_dict()}

    def save_best(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, ColTrack)
        save_model(run.best, candidate, {**content, "metrics": entry})

    fitted = fit_clips(
        model,
        footage,
        ClipOptions(**_part(config, ClipOptions)),
        options,
        runtime,
        val=config.val,
        progress=progress,
        run=run,
        save_best=save_best,
    )
    result = _summary(config, footage, fitted, run.best, time.monotonic() - begin)
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            f"mlkit train track: {config.stage}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _part(config: TrainConfig, kind: type[Any]) -> dict[str, Any]:
    return config.model_dump(mode="json", include=set(kind.model_fields))


def _start_model(config: TrainConfig, runtime: Runtime) -> ColTrack:
    torch.manual_seed(runtime.seed)
    model = ColTrack(ModelOptions(**_part(config, ModelOptions)))
    pretrained = config.backbone != "conv" and not config.random_init
    if config.init is not None:
        load_into(model, open_trained(config.init).model.state_dict(), config.init)
    elif pretrained:
        load_pretrained(model.pyramid.backbone, config.backbone, None)
    if pretrained and not config.fine_tune:
        model.pyramid.backbone.requires_grad_(False)
    if config.stage == "track":
        model.stage_two()
    return model


def fit_clips(
    model: ColTrack,
    footage: list[Footage],
    clips: ClipOptions,
    options: TrackTrainOptions,
    runtime: Runtime,
    *,
    val: float = 0.0,
    progress: Progress | None = None,
    **engine: Any,
) -> Fitted:
    """Train on clips and leave the best weights in `model`, which ends in eval mode.

    With a share `val` kept for validation the best HOTA at intervals 1 and 10 there counts (and
    the threshold that reached it is kept), else the lowest loss. `engine` goes on to
    `core.training.fit`.
    """
    encoder = clips.stage == "track"
    frozen = encoder or not any(p.requires_grad for p in model.pyramid.backbone.parameters())
    cache = None
    if frozen and clips.cache_gb > 0 and clips.augment != "full":
        cache = FrozenCache(model, encoder, clips.cache_gb * 2**30)
    if cache is not None and runtime.workers:
        raise UsageError("--workers: frozen features are kept in one process", "add --cache-gb 0")

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        assert isinstance(candidate, ColTrack)
        return validate(candidate, footage, clips.proposals, runtime)

    fitted = fit(
        ClipLoss(model, clips),
        Clips(footage, model.options, clips, cache),
        options,
        runtime,
        method="track",
        evaluate=evaluate if val > 0 else None,
        progress=progress,
        **engine,
    )
    model.eval()
    return fitted


def validate(
    model: ColTrack, footage: list[Footage], proposals: bool, runtime: Runtime
) -> dict[str, float]:
    """Track the ends of the sequences at several thresholds, on every and every tenth frame.

    Returns {"score": the best mean HOTA of the two, in 0..1, "thresh": its threshold, ...}.
    Given boxes are those of the truth, whose scores reach any threshold.
    """
    best: dict[str, float] = {"score": -1.0}
    for thresh in (THRESH,) if proposals else THRESHOLDS:
        means = {}
        for every in (1, 10):
            total = Scores()
            for item in footage:
                places = list(range(item.places.stop, len(item.info), every))
                options, given = PostOptions(thresh=thresh), item.rows if proposals else None
                found = follow_queries(
                    Trained("", model), item.info, places, options, runtime, given
                )
                total += score_sequence(item.rows, found.rows, found.frames)
            means[f"HOTA@{every}"] = total.summary()["HOTA"] / 100
        score = sum(means.values()) / len(means)
        if score > best["score"]:
            best = {"score": score, "thresh": thresh, **means}
    return best


def _summary(
    config: TrainConfig, footage: list[Footage], fitted: Fitted, weights: Path, seconds: float
) -> Result:
    frames = sum(len(item.places) for item in footage)
    objects = sum(len(set(item.rows.identity.tolist())) for item in footage)
    last = fitted.history[-1] if fitted.history else {}
    rows = [(name, f"{value:.4g}") for name, value in last.items() if name != "step"]
    option = " --det gt" if config.proposals else ""
    return Result(
        inputs={"sequences": [item.info.name for item in footage], "frames": frames},
        outputs={"run": str(weights.parent), "weights": str(weights)},
        metrics={"steps": fitted.steps, "best_step": fitted.best_step, **last},
        tables=(Table("Last logged", ("", "value"), rows),),
        notes=(
            f"{len(footage)} sequences, {frames:,} frames, {objects} objects; "
            f"best of {fitted.steps} steps at {fitted.best_step}, {seconds:.0f} s",
            f"Next: mlkit eval track {config.data[0]} --weights {weights}{option}",
        ),
    )
