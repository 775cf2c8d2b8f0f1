"""The options of `pretrain`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import MODEL, OUTPUT, RUN, OverwriteOption, ResumeOption, TrainOptions

BackboneName = Literal["tiny", "slow_r18", "slow_r50", "r2plus1d_18", "s3d"]
MethodName = Literal["moco", "byol", "simclr", "swav"]
VIEWS = "Augmentation"
READING = "Reading"


class BackboneOptions(Config):
    """Which network looks at the clips."""

    backbone: Annotated[
        BackboneName,
        Flag("--backbone", panel=MODEL),
        Field(description="Network; tiny is for small pictures and small machines."),
    ] = "tiny"
    width: Annotated[
        float,
        Flag("--width", panel=MODEL),
        Field(gt=0, le=4, description="Factor on the channels of tiny and slow networks."),
    ] = 1.0


class ClipOptions(Config):
    """What a clip is."""

    frames: Annotated[
        int, Flag("--frames"), Field(ge=1, le=128, description="Frames T of a clip.")
    ] = 8
    stride: Annotated[
        int, Flag("--stride"), Field(ge=1, le=128, description="A clip spans T x stride frames.")
    ] = 4
    size: Annotated[
        int, Flag("--size"), Field(ge=16, le=512, description="Side of a clip in pixels.")
    ] = 56
    squash: Annotated[
        bool,
        Flag("--squash/--no-squash", panel=READING),
        Field(description="Press whole pictures into the square, in the place of cutting them."),
    ] = False


class ReadOptions(Config):
    """How videos become frames."""

    fps: Annotated[
        float,
        Flag("--fps", panel=READING),
        Field(ge=0, le=240, description="Bring videos to this rate; 0 leaves each its own."),
    ] = 0.0
    picture_fps: Annotated[
        float,
        Flag("--picture-fps", panel=READING),
        Field(gt=0, le=1000, description="Rate of picture folders and arrays, which have none."),
    ] = 25.0
    short_side: Annotated[
        int,
        Flag("--short-side", panel=READING),
        Field(ge=0, le=1024, description="Short side of the cached frames; 0: 8/7 of --size."),
    ] = 0
    cache: Annotated[
        Path | None,
        Flag("--cache", panel=READING, metavar="DIR"),
        Field(description="Keep decoded frames here, for later runs too [default: in the run]."),
    ] = None
    no_cache: Annotated[
        bool,
        Flag("--no-cache", panel=READING),
        Field(description="Decode every clip anew: for sets whose frames fit on no disk."),
    ] = False


class HeadOptions(Config):
    """The projector, which is thrown away after training."""

    dim: Annotated[
        int, Flag("--dim", panel=TUNING), Field(ge=2, description="Dimension of embeddings.")
    ] = 64
    hidden: Annotated[
        int, Flag("--hidden", panel=TUNING), Field(ge=2, description="Hidden width of the heads.")
    ] = 256
    projector_layers: Annotated[
        int, Flag("--projector-layers", panel=TUNING), Field(ge=1, le=5, description="Its layers.")
    ] = 2
    head_norm: Annotated[
        bool | None,
        Flag("--head-norm/--no-head-norm", panel=TUNING),
        Field(description="Batch norm in the heads [default: yes, except moco]."),
    ] = None


class MethodOptions(HeadOptions):
    """The framework and its constants."""

    method: Annotated[
        MethodName,
        Flag("--method"),
        Field(description="How clips of a video are made to agree."),
    ] = "simclr"
    clips: Annotated[
        int,
        Flag("--clips"),
        Field(
            ge=1, le=16, description="Clips per video; 1 takes two views of one clip (a control)."
        ),
    ] = 2
    temperature: Annotated[
        float, Flag("--temperature", panel=TUNING), Field(gt=0, description="Softmax temperature.")
    ] = 0.1
    positives: Annotated[
        Literal["separate", "joint"],
        Flag("--positives", panel=TUNING),
        Field(description="moco: one loss per positive (code), or one sum (paper, eq. 1)."),
    ] = "separate"
    queue: Annotated[
        int,
        Flag("--queue", panel=TUNING),
        Field(ge=0, description="moco: past keys; 0: up to 65536, fewer for small sets."),
    ] = 0
    teacher_momentum: Annotated[
        float | None,
        Flag("--teacher-momentum", panel=TUNING),
        Field(ge=0, le=1, description="Of the momentum encoder [default: moco .994, byol .99]."),
    ] = None
    anneal: Annotated[
        bool,
        Flag("--anneal/--no-anneal", panel=TUNING),
        Field(description="Let it rise to 1 (a cosine)."),
    ] = True
    sequential: Annotated[
        bool,
        Flag("--sequential/--together", panel=TUNING),
        Field(description="moco, byol: one clip at a time; memory does not grow with --clips."),
    ] = True
    predictor_layers: Annotated[
        int, Flag("--predictor-layers", panel=TUNING), Field(ge=1, le=5, description="Of byol.")
    ] = 2
    prototypes: Annotated[
        int, Flag("--prototypes", panel=TUNING), Field(ge=2, description="swav: their number.")
    ] = 100
    epsilon: Annotated[
        float, Flag("--epsilon", panel=TUNING), Field(gt=0, description="swav: softness of codes.")
    ] = 0.05
    sinkhorn_iterations: Annotated[
        int, Flag("--sinkhorn-iterations", panel=TUNING), Field(ge=1, description="swav.")
    ] = 3
    codes: Annotated[
        Literal["first-two", "all"],
        Flag("--codes", panel=TUNING),
        Field(description="swav: clips that give codes (code: the first two; paper: all)."),
    ] = "first-two"
    freeze_prototypes: Annotated[
        float,
        Flag("--freeze-prototypes", panel=TUNING),
        Field(ge=0, description="swav: epochs in which prototypes stay as they are."),
    ] = 1.0
    sync_norm: Annotated[
        bool | None,
        Flag("--sync-norm/--no-sync-norm", panel=TUNING),
        Field(description="Batch norm over all processes [default: yes, except moco]."),
    ] = None


class AugmentOptions(Config):
    """How a clip is changed; all its frames alike."""

    crop_min: Annotated[
        float,
        Flag("--crop-min", panel=VIEWS),
        Field(gt=0, le=1, description="Smallest part of the picture's area that is cut out."),
    ] = 0.3
    crop_max: Annotated[
        float, Flag("--crop-max", panel=VIEWS), Field(gt=0, le=1, description="Largest part.")
    ] = 0.9
    colour: Annotated[
        float,
        Flag("--colour", panel=VIEWS),
        Field(
            ge=0, le=1, description="Change of brightness, contrast, saturation; hue: a quarter."
        ),
    ] = 0.6
    grey: Annotated[
        float, Flag("--grey", panel=VIEWS), Field(ge=0, le=1, description="Share made grey.")
    ] = 0.2
    blur: Annotated[
        float,
        Flag("--blur", panel=VIEWS),
        Field(ge=0, le=1, description="Share blurred, by up to 2 pixels of 224."),
    ] = 0.5
    flip: Annotated[
        bool,
        Flag("--flip/--no-flip", panel=VIEWS),
        Field(description="Mirror half of the clips; hides left from right."),
    ] = True
    difference: Annotated[
        float,
        Flag("--difference", panel=VIEWS),
        Field(ge=0, le=1, description="Share of clips that show changes between frames only."),
    ] = 0.0
    rate_jitter: Annotated[
        float,
        Flag("--rate-jitter", panel=VIEWS),
        Field(ge=0, lt=1, description="Change of a clip's span, as a part of it."),
    ] = 0.0
    max_gap: Annotated[
        float,
        Flag("--max-gap", panel=VIEWS),
        Field(ge=0, description="Most seconds between the starts of a video's clips; 0: any."),
    ] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.crop_min > self.crop_max:
            raise ValueError(f"--crop-min {self.crop_min} is above --crop-max {self.crop_max}")
        return self


class PretrainTraining(
    TrainOptions, defaults={"epochs": 200, "batch_size": 32, "weight_decay": 1e-4}
):
    """Training options; what is not given depends on --method and --preset."""


class PretrainConfig(
    BackboneOptions, ClipOptions, MethodOptions, AugmentOptions, ReadOptions, ResumeOption
):
    """All options of `mlkit pretrain`."""

    videos: Annotated[
        Path,
        Flag(argument=True, metavar="VIDEOS"),
        Field(description="A folder of videos or picture folders, or a list of them."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/pretrain")
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(
            description="Sizes: for small machines, for one GPU (slow_r18, 112 pixels), or the "
            "paper's (slow_r50, 224 pixels, 200 epochs, 512 videos per step)."
        ),
    ] = "quick"
    monitor: Annotated[
        bool,
        Flag("--monitor/--no-monitor"),
        Field(description="Follow how well neighbours tell the labels, where there are labels."),
    ] = True


class ViewsOptions(Config):
    """Which parts of a video are looked at when it is described."""

    views: Annotated[
        int, Flag("--views"), Field(ge=1, le=100, description="Clips per video, evenly in time.")
    ] = 3
    crops: Annotated[
        Literal["1", "3"],
        Flag("--crops", panel=TUNING),
        Field(description="Crops per clip: the middle, or three along the longer side."),
    ] = "1"
    batch_size: Annotated[
        int, Flag("--batch-size", panel=TUNING), Field(gt=0, description="Clips at once.")
    ] = 64


class WeightsOption(Config):
    """Which encoder is used."""

    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="best.safetensors of a run, or the paper's .pyth (with --backbone)."),
    ] = None
    random_init: Annotated[
        bool,
        Flag("--random-init", panel=MODEL),
        Field(description="An untrained network in the place of --weights: the control."),
    ] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.weights is not None and self.random_init:
            raise ValueError("--weights and --random-init exclude each other")
        return self


class EvalConfig(WeightsOption, BackboneOptions, ClipOptions, ViewsOptions, ReadOptions):
    """Options of `mlkit eval pretrain`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(
            description="Videos with labels: a list (path, label), class folders, or the .npz that "
            "mlkit data video-features wrote."
        ),
    ]
    label_column: Annotated[
        str | None,
        Flag("--label-column", metavar="NAME"),
        Field(description="Column of the labels [default: label]."),
    ] = None
    group_column: Annotated[
        str | None,
        Flag("--group-column", metavar="NAME"),
        Field(description="Leave one group out at a time, and look for others of the group."),
    ] = None
    split_column: Annotated[
        str | None,
        Flag("--split-column", metavar="NAME"),
        Field(description="Column with train and test; without it and groups: five folds."),
    ] = None
    knn: Annotated[
        int, Flag("--knn", panel=TUNING), Field(gt=0, description="Neighbours that vote.")
    ] = 20
    compare: Annotated[
        Path | None,
        Flag("--compare", metavar="FILE"),
        Field(description="Other weights, scored beside these."),
    ] = None


class FeaturesConfig(
    WeightsOption, BackboneOptions, ClipOptions, ViewsOptions, ReadOptions, OverwriteOption
):
    """Options of `mlkit data video-features`."""

    videos: Annotated[
        Path,
        Flag(argument=True, metavar="VIDEOS"),
        Field(description="A folder of videos, or a list of them (path, label)."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.npz"),
        Field(description="features (N, D), views (N, V, D), paths, labels; - writes to stdout."),
    ] = Path("features.npz")

    @model_validator(mode="after")
    def _npz(self) -> Self:
        if str(self.out) != "-" and self.out.suffix != ".npz":
            raise ValueError(f"--out {self.out}: must end in .npz")
        return self


class FinetuneTraining(
    TrainOptions,
    defaults={"epochs": 50, "batch_size": 32, "lr": 0.02, "weight_decay": 0.0},
):
    """Training options of the classifier."""


class TrainConfig(WeightsOption, BackboneOptions, ClipOptions, ReadOptions, ResumeOption):
    """Options of `mlkit train pretrain`: fine-tuning."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Videos with labels: a list (path, label) or class folders."),
    ]
    val: Annotated[
        Path | None,
        Flag("--val", metavar="DATA"),
        Field(description="Videos with labels, to choose the best weights by."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/finetune")
    freeze: Annotated[
        bool,
        Flag("--freeze"),
        Field(description="Learn the last layer alone (the linear probe of the paper)."),
    ] = False
    adapt_norms: Annotated[
        bool,
        Flag("--adapt-norms", panel=TUNING),
        Field(description="Let batch norms follow with --freeze, as the official code does."),
    ] = False
    dropout: Annotated[
        float, Flag("--dropout", panel=TUNING), Field(ge=0, lt=1, description="Before the layer.")
    ] = 0.5
    colour: Annotated[
        float,
        Flag("--colour", panel=VIEWS),
        Field(ge=0, le=1, description="Change of brightness, contrast, saturation."),
    ] = 0.4
    flip: Annotated[
        bool,
        Flag("--flip/--no-flip", panel=VIEWS),
        Field(description="Mirror half of the clips; not where left and right matter."),
    ] = True
    views: Annotated[
        int,
        Flag("--views", panel=TUNING),
        Field(ge=1, le=100, description="Clips per video when --val is scored."),
    ] = 3


class CheckConfig(ClipOptions):
    """Options of `mlkit check pretrain`."""

    videos: Annotated[
        Path,
        Flag(argument=True, metavar="VIDEOS"),
        Field(description="A folder of videos, or a list of them."),
    ]
    picture_fps: Annotated[
        float,
        Flag("--picture-fps", panel=READING),
        Field(gt=0, le=1000, description="Rate of picture folders and arrays, which have none."),
    ] = 25.0


class SpritesConfig(OverwriteOption):
    """Options of `mlkit data sprite-videos`."""

    images: Annotated[
        Path | None,
        Flag(argument=True, metavar="[IMAGES]"),
        Field(description="Class folders of small pictures; without them shapes are drawn."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Folder for the videos and labels.csv."),
    ] = Path("sprites")
    videos: Annotated[
        int, Flag("--videos"), Field(ge=2, le=100_000, description="Their number.")
    ] = 200
    length: Annotated[
        int, Flag("--length"), Field(ge=2, le=1000, description="Frames of each.")
    ] = 40
    side: Annotated[
        int, Flag("--side"), Field(ge=24, le=256, description="Height and width in pixels.")
    ] = 48
    container: Annotated[
        Literal["npy", "mp4"], Flag("--container"), Field(description="How each is kept.")
    ] = "npy"
    seed: Annotated[
        int, Flag("--seed", panel=RUN), Field(ge=0, description="Seed of every choice.")
    ] = 0


class TrackletsConfig(OverwriteOption):
    """Options of `mlkit data tracklets`."""

    sequence: Annotated[
        Path,
        Flag(argument=True, metavar="SEQUENCE"),
        Field(description="A folder of the MOT challenge: gt/gt.txt, img1/ or a video file."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Folder for the videos (.npy) and labels.csv (path, label, frames)."),
    ] = Path("tracklets")
    height: Annotated[
        int, Flag("--height"), Field(ge=16, le=512, description="Height of the pictures.")
    ] = 48
    width: Annotated[
        int, Flag("--width"), Field(ge=8, le=512, description="Width of the pictures.")
    ] = 24
    first: Annotated[
        int, Flag("--first"), Field(ge=1, description="First frame of the sequence to use.")
    ] = 1
    last: Annotated[
        int, Flag("--last"), Field(ge=0, description="Last one; 0: the last there is.")
    ] = 0
    min_length: Annotated[
        int, Flag("--min-length"), Field(ge=2, description="Leave shorter tracklets out.")
    ] = 40


# What the presets set where the user did not; sizes first, then what depends on the method.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {"backbone": "slow_r18", "size": 112, "stride": 8, "dim": 128, "hidden": 1024},
    "paper": {"backbone": "slow_r50", "size": 224, "stride": 8, "crop_min": 0.2,
              "crop_max": 0.766, "fps": 30.0, "prototypes": 1000},
}  # fmt: skip
TRAINING: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {"batch_size": 64},
    "paper": {"batch_size": 512},
}
HEADS: dict[str, dict[str, Any]] = {
    "moco": {"projector_layers": 3, "hidden": 2048, "dim": 128},
    "byol": {"projector_layers": 2, "hidden": 4096, "dim": 256, "teacher_momentum": 0.996},
    "simclr": {"projector_layers": 3, "hidden": 2048, "dim": 128},
    "swav": {"projector_layers": 3, "hidden": 2048, "dim": 128},
}
PAPER_LR = {"moco": 0.4, "byol": 4.8, "simclr": 4.8, "swav": 4.8}  # at 512 videos
PAPER_WARMUP = 35 / 200  # of the training


def resolve(
    config: PretrainConfig, training: PretrainTraining
) -> tuple[PretrainConfig, PretrainTraining]:
    """Fill what the user did not give from the preset and the method."""
    moco = config.method == "moco"
    values: dict[str, Any] = dict(PRESETS[config.preset])
    if config.preset == "paper":
        values |= HEADS[config.method]
    values.setdefault("teacher_momentum", 0.994 if moco else 0.99)
    values |= {"head_norm": not moco, "sync_norm": not moco}
    given = {key for key in config.model_fields_set if getattr(config, key) is not None}
    config = config.model_copy(update={k: v for k, v in values.items() if k not in given})
    values = dict(TRAINING[config.preset])
    batch = training.batch_size if "batch_size" in training.model_fields_set else None
    batch = batch or values.get("batch_size", training.batch_size)
    if config.preset == "paper":
        values["lr"] = PAPER_LR[config.method] * batch / 512
        values |= (
            {"optimizer": "sgd", "nesterov": True, "weight_decay": 1e-4}
            if moco
            else {"optimizer": "lars", "weight_decay": 1e-6}
        )
    elif config.method == "byol":
        values |= {"optimizer": "adamw", "lr": 1e-3}
    given = training.model_fields_set
    return config, training.model_copy(update={k: v for k, v in values.items() if k not in given})
