"""The options of `denoise`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import TrainOptions

MODEL = "Model"
OUTPUT = "Output"
LARGEST_SIGMA = 100.0


class PriorOptions(Config):
    """Which trained prior."""

    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(
            description="A prior of your own, or a .pth of the published code; default: embedded."
        ),
    ] = None


class SolverOptions(Config):
    """How far the minimisation is carried."""

    tol: Annotated[
        float,
        Flag("--tol"),
        Field(
            gt=0,
            lt=1,
            description="Stop when the result is provably this close to the minimiser, relative.",
        ),
    ] = 1e-4
    iterations: Annotated[
        int, Flag("--iterations"), Field(gt=0, description="Give up after this many iterations.")
    ] = 1000
    best_effort: Annotated[
        bool,
        Flag("--best-effort"),
        Field(description="Accept a result that did not reach --tol."),
    ] = False
    lam: Annotated[
        float | None,
        Flag("--lambda", panel=TUNING),
        Field(gt=0, description="Strength of the prior instead of the tuned one."),
    ] = None
    mu: Annotated[
        float | None,
        Flag("--mu", panel=TUNING),
        Field(gt=0, le=1000, description="Scale of the prior instead of the tuned one."),
    ] = None


class DenoiseConfig(PriorOptions, SolverOptions):
    """Options of `mlkit denoise`."""

    inputs: Annotated[
        tuple[Path, ...],
        Flag(argument=True, metavar="IMAGE..."),
        Field(
            min_length=1, description="Images, or folders of them; - reads one from standard input."
        ),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE|DIR"),
        Field(description="Where to: a file for one image, a folder for several, - for a pipe."),
    ] = Path("denoised")
    sigma: Annotated[
        float | None,
        Flag("--sigma", "-s"),
        Field(
            gt=0,
            le=LARGEST_SIGMA,
            description="Noise in grey levels of 255 (for 16 bit too); default: estimated.",
        ),
    ] = None
    strength: Annotated[
        float,
        Flag("--strength"),
        Field(gt=0, le=100, description="More (> 1) or less (< 1) smoothing than fits the noise."),
    ] = 1.0
    mode: Annotated[
        Literal["prox", "tstep"],
        Flag("--mode"),
        Field(description="Minimise to --tol, or take the few steps that were trained: fast."),
    ] = "prox"
    method: Annotated[
        Literal["crr", "tv"],
        Flag("--method"),
        Field(description="The learned prior, or total variation as a baseline."),
    ] = "crr"
    certify: Annotated[
        bool,
        Flag("--certify"),
        Field(description="Prove it: convexity, decrease of the objective, distance to optimum."),
    ] = False
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Picture of noisy, clean and difference (of the first image)."),
    ] = None
    unroll: Annotated[
        int | None,
        Flag("--unroll", panel=TUNING),
        Field(gt=0, le=1000, description="Steps of --mode tstep; default: as trained."),
    ] = None


class EvalConfig(PriorOptions, SolverOptions):
    """Options of `mlkit eval denoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of clean images; colour ones are turned grey."),
    ]
    sigma: Annotated[
        tuple[float, ...],
        Flag("--sigma", "-s"),
        Field(min_length=1, description="Noise in grey levels (repeat for several)."),
    ] = (25.0,)
    methods: Annotated[
        tuple[Literal["crr", "tstep", "tv"], ...],
        Flag("--method"),
        Field(description="What to score beside the noisy images (repeat); default: crr and tv."),
    ] = ("crr", "tv")
    limit: Annotated[
        int, Flag("--limit"), Field(ge=0, description="Use only the first N images; 0: all.")
    ] = 0


class CheckConfig(Config):
    """Options of `mlkit check denoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of images to denoise or to train on."),
    ]


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
        Flag("--resume", panel="Training", metavar="DIR"),
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
    tune: Annotated[
        tuple[float, ...],
        Flag("--tune", metavar="SIGMA"),
        Field(description="Noise levels at which lambda and mu are chosen (repeat; 0: none)."),
    ] = (5.0, 15.0, 25.0, 50.0)
    tune_only: Annotated[
        bool,
        Flag("--tune-only"),
        Field(description="Train nothing: choose lambda and mu for --weights."),
    ] = False
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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tune_only and self.weights is None:
            raise ValueError("--tune-only needs --weights")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"--kernel-size {self.kernel_size}: must be odd")
        if any(sigma < 0 or sigma > LARGEST_SIGMA for sigma in self.tune):
            raise ValueError(f"--tune: noise levels lie in 0..{LARGEST_SIGMA:g}")
        return self
