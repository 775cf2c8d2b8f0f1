"""Options that many commands share, declared once. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .config import TUNING, Config, Flag

RUN = "Run"
TRAINING = "Training"
BATCH = "Batch"
MODEL = "Model"
OUTPUT = "Output"


class OverwriteOption(Config):
    """Option of every command that writes files it is told the names of."""

    overwrite: Annotated[
        bool, Flag("--overwrite", panel=OUTPUT), Field(description="Replace existing files.")
    ] = False


class ResumeOption(Config):
    """Option of every command that leaves a run folder."""

    resume: Annotated[
        Path | None,
        Flag("--resume", panel=TRAINING, metavar="DIR"),
        Field(description="Continue the interrupted run in this folder."),
    ] = None


class PretrainedOptions(Config):
    """Options of training on a backbone that others have trained."""

    random_init: Annotated[
        bool,
        Flag("--random-init", panel=MODEL),
        Field(description="Start the backbone from random numbers (for tests)."),
    ] = False
    fine_tune: Annotated[
        bool,
        Flag("--fine-tune"),
        Field(description="Train a pretrained backbone as well; else it stays frozen."),
    ] = False


class RunOptions(Config):
    """Options of every command that computes."""

    seed: Annotated[
        int,
        Flag("--seed", panel=RUN, env="MLKIT_SEED"),
        Field(ge=0, lt=2**63, description="Seed of every random choice."),
    ] = 0
    device: Annotated[
        str,
        Flag("--device", panel=RUN, metavar="auto|cpu|cuda[:N]|mps", env="MLKIT_DEVICE"),
        Field(
            pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
            description="Where to compute; auto takes a GPU if there is one.",
        ),
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Flag("--precision", panel=RUN),
        Field(description="Arithmetic of the networks' forward passes."),
    ] = "fp32"
    threads: Annotated[
        int,
        Flag("--threads", panel=RUN, env="MLKIT_THREADS"),
        Field(ge=0, le=1024, description="CPU threads; 0 leaves the choice to torch."),
    ] = 0
    workers: Annotated[
        int,
        Flag("--workers", panel=RUN),
        Field(ge=0, le=256, description="Processes that load data; 0 loads in the main one."),
    ] = 0


class TrainOptions(Config):
    """Options of every training run."""

    epochs: Annotated[
        int, Flag(panel=TRAINING), Field(gt=0, description="Passes over the training data.")
    ] = 10
    steps: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(ge=0, description="Stop after this many steps; 0 trains for --epochs."),
    ] = 0
    batch_size: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(gt=0, description="Samples per step, over all processes together."),
    ] = 128
    lr: Annotated[
        float, Flag(panel=TRAINING), Field(gt=0, description="Learning rate at its peak.")
    ] = 0.1
    save_every: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(ge=0, description="Steps between checkpoints; 0 saves after each epoch."),
    ] = 0
    patience: Annotated[
        int,
        Flag(panel=TUNING),
        Field(ge=0, description="Stop after this many checkpoints without a better one; 0: never."),
    ] = 0
    limit: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(ge=0, description="Use only the first N training samples; 0 uses all."),
    ] = 0
    optimizer: Annotated[
        Literal["sgd", "adamw", "lars"], Flag(panel=TUNING), Field(description="Update rule.")
    ] = "sgd"
    momentum: Annotated[
        float, Flag(panel=TUNING), Field(ge=0, lt=1, description="Momentum of SGD and LARS.")
    ] = 0.9
    nesterov: Annotated[
        bool,
        Flag("--nesterov/--no-nesterov", panel=TUNING),
        Field(description="Nesterov's form of the momentum."),
    ] = False
    weight_decay: Annotated[
        float, Flag(panel=TUNING), Field(ge=0, description="Decay of the weights.")
    ] = 5e-4
    schedule: Annotated[
        Literal["constant", "cosine", "step", "poly"],
        Flag(panel=TUNING),
        Field(description="Course of the learning rate after the warm-up."),
    ] = "cosine"
    decay_at: Annotated[
        float,
        Flag(panel=TUNING),
        Field(gt=0, le=1, description="Where --schedule step divides by 10 (part of the run)."),
    ] = 0.75
    warmup: Annotated[
        int, Flag(panel=TUNING), Field(ge=0, description="Steps of linear warm-up.")
    ] = 0
    clip: Annotated[
        float, Flag(panel=TUNING), Field(ge=0, description="Largest gradient norm; 0: any.")
    ] = 0.0
    accumulate: Annotated[
        int, Flag(panel=TUNING), Field(gt=0, description="Parts into which a step is cut.")
    ] = 1
    ema: Annotated[
        float,
        Flag(panel=TUNING),
        Field(ge=0, lt=1, description="Decay of the weights' moving average; 0: none."),
    ] = 0.0


class BatchOptions(Config):
    """Options of every command that works through many files."""

    strict: Annotated[
        bool,
        Flag("--strict", panel=BATCH),
        Field(description="Stop at the first file that cannot be used, instead of skipping it."),
    ] = False
    skip_existing: Annotated[
        bool,
        Flag("--skip-existing", panel=BATCH),
        Field(description="Leave files alone whose output exists."),
    ] = False
    overwrite: Annotated[
        bool, Flag("--overwrite", panel="Output"), Field(description="Replace existing outputs.")
    ] = False
