"""The options of `labelnoise`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import (
    MODEL,
    OUTPUT,
    RUN,
    OverwriteOption,
    ResumeOption,
    TrainOptions,
)

ARRAYS = "Arrays from another model"
Selector = Literal["tabasco", "wjsd", "acd", "jsd", "gmm-loss", "cleanlab", "keep"]
NetworkName = Literal["small", "preact18", "resnet18", "resnet34", "resnet50"]


class NetworkOptions(Config):
    """Which network looks at which images."""

    network: Annotated[
        NetworkName,
        Flag("--network", panel=MODEL),
        Field(description="Network; small is for small images and small machines."),
    ] = "small"
    image_size: Annotated[
        int,
        Flag("--image-size", panel=MODEL),
        Field(ge=8, le=1024, description="Side of the images in pixels."),
    ] = 32


class SelectorOption(Config):
    """How clean labels are told from wrong ones."""

    selector: Annotated[
        Selector,
        Flag("--selector"),
        Field(
            description="How to tell wrong labels: TABASCO, one of its metrics alone, DivideMix's "
            "gmm-loss, cleanlab's confident learning, or keep (trust all)."
        ),
    ] = "tabasco"


class LabelnoiseConfig(NetworkOptions, SelectorOption, OverwriteOption):
    """All options of `mlkit labelnoise`."""

    data: Annotated[
        Path | None,
        Flag(argument=True, metavar="[DATA]"),
        Field(
            description="A folder with one sub-folder per class, a table with the columns path "
            "and label, or an .npz with images and labels."
        ),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.csv"),
        Field(description="The report, most doubtful first; - writes to standard output."),
    ] = Path("report.csv")
    html: Annotated[
        Path | None,
        Flag("--html", panel=OUTPUT, metavar="FILE.html"),
        Field(description="A page with the flagged images to look at."),
    ] = None
    summary: Annotated[
        Path | None,
        Flag("--summary", panel=OUTPUT, metavar="FILE.json"),
        Field(description="Noise and class sizes as estimated, per class."),
    ] = None
    cleaned: Annotated[
        Path | None,
        Flag("--cleaned", panel=OUTPUT, metavar="FILE.csv"),
        Field(description="A table (path, label) of the images that were not flagged."),
    ] = None
    copy_to: Annotated[
        Path | None,
        Flag("--copy-to", panel=OUTPUT, metavar="DIR"),
        Field(description="Copy flagged images here, sorted by label; nothing is moved."),
    ] = None
    probs: Annotated[
        Path | None,
        Flag("--probs", panel=ARRAYS, metavar="FILE"),
        Field(description="Out-of-sample probabilities (N, K) of another model; no training."),
    ] = None
    features: Annotated[
        Path | None,
        Flag("--features", panel=ARRAYS, metavar="FILE"),
        Field(description="Its features (N, d)."),
    ] = None
    labels: Annotated[
        Path | None,
        Flag("--labels", panel=ARRAYS, metavar="FILE"),
        Field(description="The labels (N,), numbers from 0, or a table with a column label."),
    ] = None
    logits: Annotated[
        bool,
        Flag("--logits", panel=ARRAYS),
        Field(description="--probs holds logits."),
    ] = False
    epochs: Annotated[
        int,
        Flag("--epochs"),
        Field(
            gt=0,
            description="Epochs of each network, few: long training memorises wrong labels. Small "
            "sets get 300 steps unless this is given.",
        ),
    ] = 8
    folds: Annotated[
        int,
        Flag("--folds"),
        Field(
            ge=0, le=20, description="Networks that judge what they have not seen; 0: one that has."
        ),
    ] = 3
    guard: Annotated[
        bool,
        Flag("--guard/--no-guard"),
        Field(description="Flag only what evidence supports; without it as the paper selects."),
    ] = True
    min_evidence: Annotated[
        float,
        Flag("--min-evidence", panel=TUNING),
        Field(ge=0, lt=1, description="Least probability of a wrong label that is flagged."),
    ] = 0.5
    max_flags: Annotated[
        int, Flag("--max-flags"), Field(ge=0, description="Flag at most this many; 0: any number.")
    ] = 0
    batch_size: Annotated[
        int, Flag("--batch-size", panel=TUNING), Field(gt=0, description="Images per step.")
    ] = 128
    lr: Annotated[
        float, Flag("--lr", panel=TUNING), Field(gt=0, description="Learning rate at its peak.")
    ] = 0.05

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        arrays = (self.probs, self.features, self.labels)
        if self.data is None and any(path is None for path in arrays):
            raise ValueError("give DATA, or --probs, --features and --labels together")
        if self.data is not None and any(path is not None for path in arrays):
            raise ValueError("DATA and --probs, --features, --labels exclude each other")
        if self.data is None and (self.html is not None or self.copy_to is not None):
            raise ValueError("--html and --copy-to need DATA: arrays hold no images")
        if self.folds == 1:
            raise ValueError("--folds 1: one fold leaves nothing to train on; 0 judges in-sample")
        if str(self.out) != "-" and self.out.suffix != ".csv":
            raise ValueError(f"--out {self.out}: must end in .csv")
        return self


class MixMatchOptions(Config):
    """The semi-supervised part of training (MixMatch, as DivideMix uses it)."""

    warmup_epochs: Annotated[
        int,
        Flag("--warmup-epochs"),
        Field(ge=1, description="Epochs of plain cross-entropy before labels are selected."),
    ] = 3
    lambda_u: Annotated[
        str,
        Flag("--lambda-u", panel=TUNING, metavar="auto|NUMBER"),
        Field(description="Weight of the guessed labels; auto: 0 where ACD decides, else 25."),
    ] = "auto"
    ramp: Annotated[
        float,
        Flag("--ramp", panel=TUNING),
        Field(gt=0, description="Epochs over which that weight rises."),
    ] = 16.0
    temperature: Annotated[
        float,
        Flag("--temperature", panel=TUNING),
        Field(gt=0, description="Sharpening of guesses."),
    ] = 0.5
    alpha: Annotated[
        float, Flag("--alpha", panel=TUNING), Field(gt=0, description="Beta(a, a) of the mixing.")
    ] = 4.0
    prior: Annotated[
        Literal["uniform", "estimated"],
        Flag("--prior", panel=TUNING),
        Field(description="Class frequencies that predictions are held to."),
    ] = "uniform"

    @field_validator("lambda_u")
    @classmethod
    def _number(cls, value: str) -> str:
        if value != "auto":
            try:
                fine = float(value) >= 0
            except ValueError:
                fine = False
            if not fine:
                raise ValueError("give auto, or a number of at least 0")
        return value


class LabelnoiseTraining(
    TrainOptions,
    defaults={"epochs": 8, "batch_size": 64, "lr": 0.02, "schedule": "constant"},
):
    """Training options with the defaults of the paper's code (epochs: of small machines)."""


class TrainConfig(NetworkOptions, SelectorOption, MixMatchOptions, ResumeOption):
    """Options of `mlkit train labelnoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Images with labels of which some are wrong: a folder, table or .npz."),
    ]
    val: Annotated[
        Path | None,
        Flag("--val", metavar="DATA"),
        Field(description="Images with labels you trust, to choose the best weights by."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/labelnoise")
    preset: Annotated[
        Literal["quick", "paper"],
        Flag("--preset"),
        Field(description="Sizes: for small machines, or the paper's (100 epochs, PreAct-18)."),
    ] = "quick"


class EvalConfig(Config):
    """Options of `mlkit eval labelnoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA|REPORT.csv"),
        Field(description="Images with true labels (with --weights), or a report (with --truth)."),
    ]
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="A file that mlkit train labelnoise wrote."),
    ] = None
    truth: Annotated[
        Path | None,
        Flag("--truth", metavar="FILE.csv"),
        Field(description="True labels: columns path and true_label (or label)."),
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.weights is None) == (self.truth is None):
            raise ValueError("give --weights to score a network, or --truth to score a report")
        return self


class CheckConfig(Config):
    """Options of `mlkit check labelnoise`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="A folder with one sub-folder per class, a table, or an .npz."),
    ]


class NoisyConfig(OverwriteOption):
    """Options of `mlkit data noisy-labels`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Images with true labels: a class folder, or a table (path, label)."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.csv"),
        Field(description="Table with the columns path, label, true_label."),
    ] = Path("noisy.csv")
    imbalance: Annotated[
        float,
        Flag("--imbalance"),
        Field(gt=0, le=1, description="Size of the smallest class over that of the largest."),
    ] = 1.0
    noise: Annotated[
        str,
        Flag("--noise", metavar="sym:R|asym:R|FILE.csv"),
        Field(description="Rate R of random, or one-to-one, wrong labels; or a matrix (K, K)."),
    ] = "sym:0.4"
    seed: Annotated[
        int, Flag("--seed", panel=RUN), Field(ge=0, description="Seed of every choice.")
    ] = 0

    @field_validator("noise")
    @classmethod
    def _rate(cls, noise: str) -> str:
        kind, separator, rate = noise.partition(":")
        if kind in ("sym", "asym") and separator:
            try:
                fine = 0 <= float(rate) <= 1
            except ValueError:
                fine = False
            if not fine:
                raise ValueError("the rate must lie between 0 and 1")
        elif not noise.endswith((".csv", ".npy", ".txt")):
            raise ValueError("give sym:RATE, asym:RATE, or a file with a matrix")
        return noise
