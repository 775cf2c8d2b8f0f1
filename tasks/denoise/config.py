"""The options of `denoise`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...core.config import TUNING, Config, Flag
from ...core.options import TrainOptions

MODEL = "Model"
OUTPUT = "Output"
LARGEST_SIGMA = 100.0


class DenoiseTraining(
    TrainOptions,
    defaults={
        "epochs": 1,
        "batch_size": 16,
        "lr": 2e-3,
        "optimizer": "adamw",
        "weight_decay": 0.0,
    },
):
    """Options of the training run, with what suits this method as defaults."""


class TrainConfig(Config):
    """Options of `mlkit train denoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of clean images; colour ones are turned grey."),
    ]
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/denoise")
    resume: Annotated[
        Path | None,
        Flag("--resume", panel=OUTPUT, metavar="DIR"),
        Field(description="Continue this run."),
    ] = None
    sigma: Annotated[
        float,
        Flag("--sigma", "-s"),
        Field(gt=0, le=LARGEST_SIGMA, description="Noise to train with, in grey levels of 255."),
    ] = 25.0
    unroll: Annotated[
        int,
        Flag("--unroll", "-t"),
        Field(gt=0, le=100, description="Gradient steps of the denoiser (the paper's t)."),
    ] = 1
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Start from these weights, for instance those of a smaller --unroll."),
    ] = None
    val: Annotated[
        Path | None,
        Flag("--val", metavar="DIR"),
        Field(description="Images to choose the best weights by; default: 12 of IMAGES."),
    ] = None
    kernel_size: Annotated[
        int,
        Flag("--kernel-size", panel=MODEL),
        Field(ge=3, le=31, description="Size of each of the two convolutions, odd."),
    ] = 7
    channels: Annotated[
        int, Flag("--channels", panel=MODEL), Field(gt=0, le=1024, description="Number of ridges.")
    ] = 32
    activation: Annotated[
        Literal["spline", "relu"],
        Flag("--activation", panel=TUNING),
        Field(description="Learned monotone splines, or rectifiers (an ablation)."),
    ] = "spline"
    zero_mean: Annotated[
        bool,
        Flag("--zero-mean/--no-zero-mean", panel=TUNING),
        Field(description="Filters without a mean."),
    ] = True
    tv2: Annotated[
        float,
        Flag("--tv2", panel=TUNING),
        Field(ge=0, description="Weight of the penalty on slope changes; 0: none."),
    ] = 2e-3
    step_rule: Annotated[
        Literal["descent", "averaged"],
        Flag("--step-rule", panel=TUNING),
        Field(description="Steps of the denoiser: longest ones, or provably non-expansive ones."),
    ] = "descent"
    patch: Annotated[
        int, Flag("--patch", panel=TUNING), Field(ge=16, description="Side of training patches.")
    ] = 40
    stride: Annotated[
        int, Flag("--stride", panel=TUNING), Field(gt=0, description="Distance between patches.")
    ] = 10
