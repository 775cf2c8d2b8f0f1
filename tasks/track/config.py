"""The options of `track`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import (
    MODEL,
    OUTPUT,
    RUN,
    TRAINING,
    OverwriteOption,
    PretrainedOptions,
    ResumeOption,
    TrainOptions,
)

Baseline = Literal["iou", "cv", "sort", "byte", "histogram"]
Method = Literal["coltrack", "iou", "cv", "sort", "byte", "histogram"]
SELF_DETECTIONS = ("gt", "det")  # boxes that a MOTChallenge folder brings along


class ModelOptions(Config):
    """The network; a checkpoint holds them."""

    backbone: Annotated[
        Literal["conv", "efficientnet_lite0", "resnet18", "resnet50"],
        Flag("--backbone", panel=MODEL),
        Field(description="Image features: conv from scratch, the others trained on ImageNet."),
    ] = "conv"
    width: Annotated[
        int, Flag("--width", panel=TUNING), Field(ge=8, le=256, multiple_of=8,
        description="Channels of conv's first block."),
    ] = 16  # fmt: skip
    dim: Annotated[
        int,
        Flag("--dim", panel=MODEL),
        Field(ge=32, le=1024, multiple_of=32, description="Width of queries and memory."),
    ] = 128
    heads: Annotated[
        int, Flag("--heads", panel=TUNING), Field(ge=1, le=32, description="Attention heads.")
    ] = 8
    levels: Annotated[
        int, Flag("--levels", panel=TUNING), Field(ge=2, le=6, description="Feature levels.")
    ] = 2
    encoder_layers: Annotated[
        int, Flag("--encoder-layers", panel=TUNING), Field(ge=0, le=12, description="0: none.")
    ] = 1
    decoder_layers: Annotated[
        int, Flag("--decoder-layers", panel=TUNING), Field(ge=1, le=12, description="Layers.")
    ] = 3
    encoder_points: Annotated[
        int, Flag("--encoder-points", panel=TUNING), Field(ge=1, le=32, description="Per level.")
    ] = 4
    decoder_points: Annotated[
        int, Flag("--decoder-points", panel=TUNING), Field(ge=1, le=32, description="Per level.")
    ] = 8
    ffn: Annotated[
        int, Flag("--ffn", panel=TUNING), Field(ge=16, le=8192, description="Hidden width.")
    ] = 256
    queries: Annotated[
        int,
        Flag("--queries", panel=TUNING),
        Field(ge=1, le=2000, description="Detect queries, that look for new objects."),
    ] = 60
    bank: Annotated[
        int,
        Flag("--bank", panel=TUNING),
        Field(ge=1, le=32, description="Queries kept per track: the newest leads, 1: no history."),
    ] = 3
    irm: Annotated[
        bool,
        Flag("--irm/--no-irm", panel=TUNING),
        Field(description="Refine a track's queries by one another."),
    ] = True
    blocking: Annotated[
        bool,
        Flag("--blocking/--no-blocking", panel=TUNING),
        Field(description="Hide a track's queries from one another in self-attention."),
    ] = True
    size: Annotated[
        int,
        Flag("--size", panel=MODEL),
        Field(ge=32, le=4096, description="Longer side that images are scaled to, in pixels."),
    ] = 384
    classes: Annotated[
        str,
        Flag("--classes", panel=TUNING, metavar="NAME,.."),
        Field(description="Names of the categories 1, 2, ... of the ground truth."),
    ] = "person"

    @property
    def class_names(self) -> list[str]:
        """The categories' names; category number k is the k-th, from 1."""
        return [name.strip() for name in self.classes.split(",")]

    @field_validator("classes")
    @classmethod
    def _named(cls, classes: str) -> str:
        if not all(name.strip() for name in classes.split(",")):
            raise ValueError("write names between commas, such as person,car")
        return classes

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelOptions:
        if self.dim % self.heads:
            raise ValueError(f"--dim {self.dim} must be a multiple of --heads {self.heads}")
        return self


class ClipOptions(Config):
    """How training clips are cut and what is minimised."""

    stage: Annotated[
        Literal["detect", "track", "joint"],
        Flag("--stage", panel=TRAINING),
        Field(
            description="detect: single frames; track: clips, encoder frozen (needs --init); "
            "joint: clips, everything at once."
        ),
    ] = "joint"
    proposals: Annotated[
        bool,
        Flag("--proposals", panel=TRAINING),
        Field(description="Start detect queries at given boxes, as `track --det` will."),
    ] = False
    box_noise: Annotated[
        float,
        Flag("--box-noise", panel=TUNING),
        Field(
            ge=0,
            le=0.5,
            description="Given boxes are moved by up to this share of their size, this share is "
            "lost and this share made up, as a detector does.",
        ),
    ] = 0.1
    clip_length: Annotated[
        int, Flag("--clip-length", panel=TRAINING), Field(ge=2, le=64, description="Frames a clip.")
    ] = 4
    max_interval: Annotated[
        int,
        Flag("--max-interval", panel=TRAINING),
        Field(ge=1, le=1000, description="Frames between frames of a clip: 1 to this, at random."),
    ] = 10
    toc: Annotated[
        bool,
        Flag("--toc/--no-toc", panel=TUNING),
        Field(description="The consistency loss on historical queries."),
    ] = True
    track_drop: Annotated[
        float, Flag("--track-drop", panel=TUNING), Field(ge=0, le=1, description="Share lost.")
    ] = 0.1
    false_tracks: Annotated[
        float, Flag("--false-tracks", panel=TUNING), Field(ge=0, le=1, description="Share faked.")
    ] = 0.3
    gate: Annotated[
        float, Flag("--gate", panel=TUNING), Field(ge=0, le=1, description="IoU a track must keep.")
    ] = 0.5
    noise_pairs: Annotated[
        int,
        Flag("--noise-pairs", panel=TUNING),
        Field(ge=0, le=1000, description="Denoising queries per frame, in pairs; 0: none."),
    ] = 100
    augment: Annotated[
        Literal["none", "flip", "full"],
        Flag("--augment", panel=TUNING),
        Field(description="flip; full adds scale, rotation, shear, shift, mosaic and colours."),
    ] = "flip"
    mosaic: Annotated[
        float, Flag("--mosaic", panel=TUNING), Field(ge=0, le=1, description="Share, with full.")
    ] = 0.0
    mixup: Annotated[
        float, Flag("--mixup", panel=TUNING), Field(ge=0, le=1, description="Share, with full.")
    ] = 0.0
    cache_gb: Annotated[
        float,
        Flag("--cache-gb", panel=TUNING),
        Field(ge=0, le=1000, description="Memory for what frozen parts make of frames; 0: none."),
    ] = 1.0


class TrackTrainOptions(
    TrainOptions,
    defaults={
        "epochs": 10,
        "batch_size": 1,
        "lr": 2e-4,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
        "clip": 0.1,
        "schedule": "step",
        "decay_at": 0.8,
    },
):
    """The options of every training run, with the paper's AdamW as default."""


class TrainConfig(ModelOptions, ClipOptions, PretrainedOptions, ResumeOption):
    """Options of `mlkit train track`."""

    data: Annotated[
        tuple[Path, ...],
        Flag(argument=True, metavar="DATA..."),
        Field(min_length=1, description="MOTChallenge sequences, or folders of them."),
    ]
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/track")
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(
            description="Size of network and images; paper: ResNet-50, 300 queries, 1440 pixels."
        ),
    ] = "standard"
    init: Annotated[
        Path | None,
        Flag("--init", metavar="FILE"),
        Field(description="Weights to start from; --stage track re-initialises their decoder."),
    ] = None
    val: Annotated[
        float,
        Flag("--val"),
        Field(ge=0, lt=0.9, description="Share of each sequence, its end, kept for validation."),
    ] = 0.0


class PostOptions(Config):
    """What becomes of the tracks."""

    thresh: Annotated[
        float,
        Flag("--thresh"),
        Field(
            ge=0,
            lt=1,
            description="Score that starts, keeps and writes a track; 0: the weights' own, or 0.6.",
        ),
    ] = 0.0
    max_age: Annotated[
        float,
        Flag("--max-age", metavar="SECONDS"),
        Field(ge=0, description="A track that is not seen this long ends."),
    ] = 1.0
    nms: Annotated[
        float,
        Flag("--nms", panel=TUNING, metavar="IOU"),
        Field(
            gt=0,
            le=1,
            description="Of two finds of the network that overlap by more than this, one counts; "
            "1: both, as published.",
        ),
    ] = 0.7
    confirm: Annotated[
        float,
        Flag("--confirm", panel=TUNING, metavar="IOU"),
        Field(
            ge=0,
            lt=1,
            description="What is found in the frame alone confirms the track that it overlaps by "
            "more than this, or starts one; 0: queries that see the tracks find only new objects, "
            "as published.",
        ),
    ] = 0.3
    history: Annotated[
        int,
        Flag("--history", panel=TUNING),
        Field(ge=0, le=32, description="Queries kept per track; 0: as trained."),
    ] = 0
    det: Annotated[
        str | None,
        Flag("--det", metavar="FILE|det|gt"),
        Field(
            description="Boxes to track: a file, or the sequence's own det/det.txt or gt/gt.txt."
        ),
    ] = None


class TrackConfig(PostOptions, OverwriteOption):
    """Options of `mlkit track`."""

    input: Annotated[
        Path,
        Flag(argument=True, metavar="INPUT"),
        Field(description="A video, a folder of frames, or a MOTChallenge sequence."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Result file; - is standard output."),
    ] = Path("tracks.txt")
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="A file of mlkit train track, or a published .pth; default: embedded."),
    ] = None
    method: Annotated[
        Method,
        Flag("--method"),
        Field(
            description="coltrack, or a baseline on the boxes of --det, else on those that the "
            "network finds in single frames."
        ),
    ] = "coltrack"
    fps: Annotated[
        float, Flag("--fps"), Field(gt=0, description="Frames per second to look at; default: all.")
    ] = 1e9
    every: Annotated[
        int, Flag("--every", metavar="K"), Field(ge=1, description="Look at every k-th frame.")
    ] = 1
    video: Annotated[
        Path | None,
        Flag("--video", panel=OUTPUT, metavar="FILE.mp4"),
        Field(description="Write the frames with boxes drawn in."),
    ] = None
    category: Annotated[
        str | None,
        Flag("--class", metavar="NAME"),
        Field(description="Write tracks of one class alone; default: all that the weights know."),
    ] = None
    interpolate: Annotated[
        int,
        Flag("--interpolate", metavar="FRAMES"),
        Field(ge=0, description="Fill gaps shorter than this by straight lines."),
    ] = 0
    smooth: Annotated[
        float,
        Flag("--smooth", panel=TUNING),
        Field(ge=0, description="Smooth tracks by a Gaussian process of this length; GSI: 10."),
    ] = 0.0
    min_area: Annotated[
        float, Flag("--min-area", panel=TUNING), Field(ge=0, description="Smallest box, pixels.")
    ] = 100.0

    @model_validator(mode="after")
    def _fits(self) -> TrackConfig:
        if self.method != "coltrack" and self.det is not None and self.weights is not None:
            raise ValueError(f"--method {self.method} with --det uses no --weights")
        if self.every > 1 and self.fps < 1e9:
            raise ValueError("--every and --fps exclude each other")
        return self


class EvalConfig(PostOptions):
    """Options of `mlkit eval track`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="A sequence with ground truth, a folder of them, or a Scalabel file."),
    ]
    results: Annotated[
        Path | None,
        Flag("--results", metavar="FILE|DIR"),
        Field(description="Score these result files (SEQUENCE.txt) instead of tracking."),
    ] = None
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="A file of mlkit train track; default: embedded."),
    ] = None
    methods: Annotated[
        str,
        Flag("--methods", metavar="NAME,.."),
        Field(description="Trackers side by side: coltrack iou cv sort byte histogram."),
    ] = "coltrack"
    every: Annotated[
        str,
        Flag("--every", metavar="K,.."),
        Field(description="Score every k-th frame, for each k."),
    ] = "1"
    first: Annotated[
        int, Flag("--first", metavar="FRAME"), Field(ge=1, description="Start at this frame.")
    ] = 1
    last: Annotated[
        int, Flag("--last", metavar="FRAME"), Field(ge=0, description="End at this one; 0: all.")
    ] = 0
    metrics: Annotated[
        str,
        Flag("--metrics", metavar="NAME,.."),
        Field(description="Columns of the table: hota, clear, identity."),
    ] = "hota,clear,identity"
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw HOTA against frames processed per second of video."),
    ] = None

    @property
    def intervals(self) -> list[int]:
        """The values of k."""
        return [int(part) for part in self.every.split(",")]

    @property
    def trackers(self) -> list[str]:
        """The trackers to compare."""
        return [part.strip() for part in self.methods.split(",")]

    @field_validator("every")
    @classmethod
    def _intervals(cls, every: str) -> str:
        if not all(part.strip().isdigit() and int(part) > 0 for part in every.split(",")):
            raise ValueError("write intervals such as 1,3,10")
        return every

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: str) -> str:
        unknown = [part for part in methods.split(",") if part.strip() not in get_args(Method)]
        if unknown:
            raise ValueError(f"unknown tracker; known: {', '.join(get_args(Method))}")
        return methods

    @field_validator("metrics")
    @classmethod
    def _columns(cls, metrics: str) -> str:
        if not set(metrics.split(",")) <= {"hota", "clear", "identity"}:
            raise ValueError("write some of hota,clear,identity")
        return metrics


class CheckConfig(Config):
    """Options of `mlkit check track`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="A MOTChallenge sequence, or a folder of them."),
    ]
    every: Annotated[
        str,
        Flag("--every", metavar="K,.."),
        Field(description="Intervals of the difficulty report."),
    ] = "1,3,6,10,15,30"

    @field_validator("every")
    @classmethod
    def _intervals(cls, every: str) -> str:
        return EvalConfig._intervals(every)

    @property
    def intervals(self) -> list[int]:
        """The values of k."""
        return [int(part) for part in self.every.split(",")]


class SynthConfig(OverwriteOption):
    """Options of `mlkit data track-synth`."""

    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Where to.")
    ] = Path("track-synth")
    videos: Annotated[int, Flag("--videos"), Field(ge=1, le=10_000, description="Sequences.")] = 4
    frames: Annotated[
        int,
        Flag("--frames"),
        Field(ge=2, le=100_000, description="Frames of each, at 30 a second."),
    ] = 120
    width: Annotated[
        int, Flag("--frame-width"), Field(ge=64, le=1920, description="Width in pixels.")
    ] = 256
    height: Annotated[
        int, Flag("--frame-height"), Field(ge=48, le=1080, description="Height in pixels.")
    ] = 144
    objects: Annotated[
        int, Flag("--objects"), Field(ge=1, le=100, description="Objects at a time, at most.")
    ] = 8
    backgrounds: Annotated[
        Path | None,
        Flag("--backgrounds", metavar="DIR"),
        Field(description="Images to cut backgrounds from; default: painted ones."),
    ] = None
    sprites: Annotated[
        Path | None,
        Flag("--sprites", metavar="DIR"),
        Field(description="MOTChallenge sequences, or images, to cut objects from."),
    ] = None
    keep_ids: Annotated[
        bool,
        Flag("--keep-ids"),
        Field(description="An object that comes back keeps its identity (MOT gives a new one)."),
    ] = False
    quality: Annotated[
        int,
        Flag("--quality", panel=TUNING),
        Field(ge=0, le=95, description="JPEG quality; 0: 40 to 90 at random."),
    ] = 0
    seed: Annotated[
        int,
        Flag("--seed", panel=RUN, env="MLKIT_SEED"),
        Field(ge=0, lt=2**63, description="Seed of every random choice."),
    ] = 0
