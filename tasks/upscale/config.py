"""The options of `upscale`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import MODEL, OUTPUT, ResumeOption, TrainOptions

Method = Literal["mzsr", "joint", "pretrained", "zssr", "ibp", "bicubic"]
PAPER = "paper"


class AdaptOptions(Config):
    """How the network is fitted to an image, and what follows."""

    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(
            description="Weights of your own, or of the published code (.npz, .pth, .index); "
            "default: embedded."
        ),
    ] = None
    optimizer: Annotated[
        Literal["auto", "sgd", "adam"],
        Flag("--optimizer", panel=TUNING),
        Field(description="Plain steps of learned size (sgd), Adam, or what suits the weights."),
    ] = "auto"
    rate: Annotated[
        float | None,
        Flag("--lr", panel=TUNING),
        Field(gt=0, le=1, description="Step size instead of the learned ones."),
    ] = None
    back_project: Annotated[
        int | None,
        Flag("--back-project"),
        Field(
            ge=0,
            le=1000,
            description="Rounds of back-projection afterwards; default: 10 with a known kernel "
            "and no noise, else 0.",
        ),
    ] = None
    tile: Annotated[
        int,
        Flag("--tile", panel=TUNING),
        Field(ge=32, description="Side of the pieces that a large result is made of, in pixels."),
    ] = 512


class UpscaleConfig(AdaptOptions):
    """Options of `mlkit upscale`."""

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
    ] = Path("upscaled")
    scale: Annotated[
        float,
        Flag("--scale", "-x"),
        Field(gt=1, le=16, description="How many times wider and higher; 2.5 is fine."),
    ] = 2.0
    kernel: Annotated[
        str,
        Flag("--kernel", "-k", metavar="KERNEL"),
        Field(
            description="The blur: estimate, bicubic (a sharp source), gaussian:VAR, "
            "gaussian:L1,L2,DEGREES, or a .npy, .mat, .txt file."
        ),
    ] = "estimate"
    sampling: Annotated[
        Literal["direct", "bicubic"],
        Flag("--sampling"),
        Field(description="How pixels were left out: every n-th, or smoothly as programs do."),
    ] = "bicubic"
    steps: Annotated[
        int,
        Flag("--steps", "-n"),
        Field(ge=0, le=100_000, description="Gradient steps on the image; 0 adapts nothing."),
    ] = 5
    method: Annotated[
        Method,
        Flag("--method"),
        Field(description="Ours, or a baseline to compare with."),
    ] = "mzsr"
    noise: Annotated[
        float,
        Flag("--noise"),
        Field(ge=0, le=100, description="Noise of the image in grey levels, not to be magnified."),
    ] = 0.0
    ensemble: Annotated[
        bool,
        Flag("--ensemble"),
        Field(description="Mean over eight turns (--sampling bicubic, symmetric kernel only)."),
    ] = False
    zssr_steps: Annotated[
        int,
        Flag("--zssr-steps", panel=TUNING),
        Field(gt=0, le=100_000, description="Longest training of --method zssr, in steps."),
    ] = 3000
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Picture of a detail: input, bicubic, after 1, 5, 10 steps."),
    ] = None


class EvalConfig(AdaptOptions):
    """Options of `mlkit eval upscale`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of sharp images; they are made small with each kernel."),
    ]
    low: Annotated[
        Path | None,
        Flag("--lr-images", metavar="DIR"),
        Field(description="Folder of the small images, same names; needs one --kernels."),
    ] = None
    scale: Annotated[
        int, Flag("--scale", "-x"), Field(ge=2, le=8, description="How many times wider.")
    ] = 2
    kernels: Annotated[
        tuple[str, ...],
        Flag("--kernels", "-k", metavar="KERNEL"),
        Field(
            min_length=1,
            description="SAMPLING:KERNEL (repeat), such as direct:gaussian:2.0; paper: its four.",
        ),
    ] = (PAPER,)
    assume: Annotated[
        str | None,
        Flag("--assume", metavar="KERNEL"),
        Field(description="Kernel that the methods are told instead of the true one."),
    ] = None
    steps: Annotated[
        tuple[int, ...],
        Flag("--steps", "-n"),
        Field(min_length=1, description="Gradient steps of ours (repeat)."),
    ] = (0, 1, 5, 10)
    methods: Annotated[
        tuple[Method, ...],
        Flag("--method"),
        Field(min_length=1, description="What to score (repeat); default: all."),
    ] = ("bicubic", "ibp", "pretrained", "joint", "zssr", "mzsr")
    zssr_steps: Annotated[
        int,
        Flag("--zssr-steps", panel=TUNING),
        Field(ge=0, le=100_000, description="Score ZSSR with so many steps, too; 0: do not."),
    ] = 0
    limit: Annotated[
        int, Flag("--limit"), Field(ge=0, description="Use only the first N images; 0: all.")
    ] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(not 0 <= step <= 100_000 for step in self.steps):
            raise ValueError("--steps: 0 to 100000")
        if self.low is not None and (len(self.kernels) != 1 or self.kernels[0] == PAPER):
            raise ValueError("--lr-images needs one --kernels that tells how they were made")
        return self


class CheckConfig(Config):
    """Options of `mlkit check upscale`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of sharp images to train on."),
    ]
    patch: Annotated[
        int, Flag("--patch", panel=TUNING), Field(ge=24, description="Side of training patches.")
    ] = 64


class UpscaleTraining(
    TrainOptions,
    defaults={
        "epochs": 1,
        "batch_size": 5,
        "lr": 1e-4,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "schedule": "constant",
    },
):
    """Options of the training run, with what suits this method as defaults."""


class TrainConfig(ResumeOption):
    """Options of `mlkit train upscale`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGES"),
        Field(description="Folder of sharp images."),
    ]
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/upscale")
    objective: Annotated[
        Literal["meta", "joint", "bicubic"],
        Flag("--objective"),
        Field(
            description="Meta-learning; or without it one network for all blurs, or for none "
            "(pairs: --batch-size 32 --lr 4e-4)."
        ),
    ] = "meta"
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Start from these weights instead of pre-training."),
    ] = None
    pretrain: Annotated[
        int,
        Flag("--pretrain"),
        Field(ge=0, description="Steps of bicubic pre-training before meta-learning; 0: none."),
    ] = 2000
    val: Annotated[
        Path | None,
        Flag("--val", metavar="DIR"),
        Field(description="Images to choose the best weights by; default: some of IMAGES."),
    ] = None
    scales: Annotated[
        tuple[int, ...],
        Flag("--scale", "-x"),
        Field(min_length=1, description="Scales to train for (repeat; twice is twice as often)."),
    ] = (2,)
    sampling: Annotated[
        Literal["direct", "bicubic", "both"],
        Flag("--sampling"),
        Field(description="How pixels are left out."),
    ] = "direct"
    inner_steps: Annotated[
        int, Flag("--inner-steps"), Field(gt=0, le=50, description="Adaptation steps of a task.")
    ] = 5
    alpha: Annotated[
        float, Flag("--alpha"), Field(gt=0, le=1, description="Size of the adaptation steps.")
    ] = 0.01
    learn_rates: Annotated[
        bool,
        Flag("--learn-rates/--fixed-rates"),
        Field(description="Learn a step size per layer and step, from --alpha on."),
    ] = True
    second_order: Annotated[
        bool,
        Flag("--second-order/--first-order"),
        Field(description="Differentiate through the adaptation, or take its end as given."),
    ] = True
    step_weights: Annotated[
        Literal["equal", "annealed", "last"],
        Flag("--step-weights", panel=TUNING),
        Field(description="Which steps' losses count: all, more and more the last, the last."),
    ] = "equal"
    support: Annotated[
        int, Flag("--support", panel=TUNING), Field(gt=0, description="Patches to adapt on.")
    ] = 8
    query: Annotated[
        int, Flag("--query", panel=TUNING), Field(gt=0, description="Patches to judge by.")
    ] = 8
    patch: Annotated[
        int, Flag("--patch", panel=TUNING), Field(ge=24, description="Side of training patches.")
    ] = 64
    aligned: Annotated[
        bool,
        Flag("--align/--no-align", panel=TUNING),
        Field(description="Enlarge in the phase of the sampling, or centred as the paper does."),
    ] = True
    input_rounds: Annotated[
        int,
        Flag("--input-rounds", panel=TUNING),
        Field(ge=0, le=100, description="Back-projections of the network's input; the paper: 0."),
    ] = 0
    width: Annotated[
        int, Flag("--width", panel=MODEL), Field(gt=0, le=1024, description="Channels.")
    ] = 64
    depth: Annotated[
        int, Flag("--depth", panel=MODEL), Field(ge=2, le=64, description="Layers.")
    ] = 8

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(not 2 <= scale <= 4 for scale in self.scales):
            raise ValueError("--scale: 2, 3 and 4 can be trained; others are made of them")
        if any(self.patch % scale for scale in self.scales):
            raise ValueError(f"--patch {self.patch}: must be a multiple of every --scale")
        return self
