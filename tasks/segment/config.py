"""The options of `segment`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

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

DATA = "Data"
MAX_WORDS = 20
Backbone = Literal["mini", "efficientnet_lite0", "resnet50", "resnet101"]
PRETRAINED: tuple[Backbone, ...] = ("efficientnet_lite0", "resnet50", "resnet101")


class ModelOptions(Config):
    """Which network: backbone, sizes, and the parts that can be left out to see their worth."""

    backbone: Annotated[
        Backbone,
        Flag("--backbone", panel=MODEL),
        Field(description="Features of the picture; mini is trained from scratch."),
    ] = "mini"
    image_size: Annotated[
        int,
        Flag("--image-size", panel=MODEL),
        Field(ge=16, le=1024, multiple_of=8, description="Side of the images in pixels."),
    ] = 96
    width: Annotated[
        Literal["small", "paper"],
        Flag("--width", panel=MODEL),
        Field(description="Channels of the attention and the gates: small, or the paper's."),
    ] = "small"
    word_order: Annotated[
        Literal["none", "position", "lstm"],
        Flag("--word-order", panel=MODEL),
        Field(description="Tell the order of words; none as in the paper, which hardly sees it."),
    ] = "none"
    language: Annotated[
        Literal["words", "mean", "none"],
        Flag("--language", panel=TUNING),
        Field(description="Words one by one, their mean alone, or no language (ablations)."),
    ] = "words"
    spatial: Annotated[
        bool,
        Flag("--spatial/--no-spatial", panel=TUNING),
        Field(description="Tell every cell where it is."),
    ] = True
    fusion: Annotated[
        Literal["gated", "sum"],
        Flag("--fusion", panel=TUNING),
        Field(description="Join the levels by gates, or just add them (ablation)."),
    ] = "gated"
    tokenizer: Annotated[
        Literal["product", "official"],
        Flag("--tokenizer", panel=TUNING),
        Field(description="Words alone, or with punctuation as the paper's code splits."),
    ] = "product"
    enlargement: Annotated[
        Literal["product", "legacy"],
        Flag("--enlargement", panel=TUNING),
        Field(description="Bilinear grid: torch's, or that of TensorFlow 1 as in the paper."),
    ] = "product"


class SourceOptions(Config):
    """Where the parts of a REFER data set lie."""

    images: Annotated[
        Path | None,
        Flag("--images", panel=DATA, metavar="DIR"),
        Field(description="Folder of the photographs, where the data does not say."),
    ] = None
    instances: Annotated[
        Path | None,
        Flag("--instances", panel=DATA, metavar="FILE.json"),
        Field(description="COCO instances of a REFER file; else instances.json beside it."),
    ] = None


class SegmentConfig(OverwriteOption):
    """Options of `mlkit segment`."""

    image: Annotated[
        Path | None,
        Flag(argument=True, metavar="[IMAGE]"),
        Field(description="The photograph; - is standard input."),
    ] = None
    expression: Annotated[
        tuple[str, ...],
        Flag(argument=True, metavar="[TEXT]..."),
        Field(description="What to find; several sentences share one look at the photograph."),
    ] = ()
    queries: Annotated[
        Path | None,
        Flag("--queries", metavar="FILE.jsonl"),
        Field(description='Many photographs: lines {"image": ..., "expression": ...}.'),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="PATH"),
        Field(description="The mask as PNG (- for stdout); several go into this folder."),
    ] = Path("mask.png")
    overlay: Annotated[
        Path | None,
        Flag("--overlay", panel=OUTPUT, metavar="FILE"),
        Field(description="Also the photograph with the mask on it, all sentences in one."),
    ] = None
    prob: Annotated[
        Path | None,
        Flag("--prob", panel=OUTPUT, metavar="FILE"),
        Field(description="Also the probabilities of one sentence: .npy, or 16-bit .png."),
    ] = None
    threshold: Annotated[
        float,
        Flag("--threshold"),
        Field(gt=0, lt=1, description="Least probability of a pixel of the mask."),
    ] = 0.5
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; else the embedded one, which knows generated shapes."),
    ] = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.image is None) == (self.queries is None):
            raise ValueError("give an IMAGE with a TEXT, or --queries")
        if self.image is not None and not self.expression:
            raise ValueError('say what to find: mlkit segment photo.jpg "the left dog"')
        if self.queries is not None and (self.overlay or self.prob):
            raise ValueError("--overlay and --prob are for one photograph")
        if self.prob is not None and self.prob.suffix.lower() not in (".npy", ".png"):
            raise ValueError(f"--prob {self.prob}: must end in .npy or .png")
        if self.prob is not None and len(self.expression) > 1:
            raise ValueError("--prob is for one sentence")
        several = self.queries is not None or len(self.expression) > 1
        if several and (str(self.out) == "-" or self.out.suffix):
            raise ValueError(f"--out {self.out}: name a folder for several masks")
        if not several and str(self.out) != "-" and self.out.suffix.lower() != ".png":
            raise ValueError(f"--out {self.out}: must end in .png")
        return self


class SegmentTraining(
    TrainOptions,
    defaults={
        "optimizer": "adamw",
        "lr": 2.5e-3,
        "weight_decay": 0.0,
        "schedule": "poly",
        "batch_size": 12,
        "epochs": 10,
        "clip": 5.0,
    },
):
    """Training options with the defaults of this method: Adam, polynomial decay."""


class TrainConfig(ModelOptions, SourceOptions, PretrainedOptions, ResumeOption):
    """Options of `mlkit train segment` besides those of the training engine."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="References: a .jsonl of mlkit, or REFER's refs(...).p."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="The run folder."),
    ] = Path("runs/segment")
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(description="quick: minutes on a laptop; paper: ResNet-101 at 320 px, 800k steps."),
    ] = "standard"
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Weights of the backbone; else its usual pretrained ones."),
    ] = None
    augment: Annotated[
        bool,
        Flag("--augment/--no-augment"),
        Field(description="Add mirrored photographs with left and right swapped, and jitter."),
    ] = True
    min_count: Annotated[
        int,
        Flag("--min-count", panel=TUNING),
        Field(ge=1, description="Words that occur less often are unknown."),
    ] = 1
    l2: Annotated[
        float,
        Flag("--l2", panel=TRAINING),
        Field(ge=0, description="Penalty of the two weights that the paper's code penalises."),
    ] = 5e-4


class EvalConfig(SourceOptions):
    """Options of `mlkit eval segment`."""

    data: Annotated[
        Path, Flag(argument=True, metavar="DATA"), Field(description="References, as for training.")
    ]
    weights: Annotated[
        tuple[Path, ...],
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model (else the embedded one); repeat to compare several."),
    ] = ()
    split: Annotated[
        str,
        Flag("--split"),
        Field(description="Which references: test, val, testA, ... or all."),
    ] = "test"
    controls: Annotated[
        bool,
        Flag("--controls"),
        Field(description="Also with opposite words (left for right) and all candidates as mask."),
    ] = False
    threshold: Annotated[
        float,
        Flag("--threshold"),
        Field(gt=0, lt=1, description="Least probability of a pixel of the mask."),
    ] = 0.5


class CheckConfig(SourceOptions):
    """Options of `mlkit check segment`."""

    data: Annotated[
        Path, Flag(argument=True, metavar="DATA"), Field(description="References to look through.")
    ]


class ConvertConfig(SourceOptions, OverwriteOption):
    """Options of `mlkit data refer-convert`."""

    data: Annotated[
        Path, Flag(argument=True, metavar="REFS.p"), Field(description="REFER's refs(...).p.")
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.jsonl"),
        Field(description="The references as JSON lines."),
    ] = Path("refs.jsonl")


class DeriveConfig(OverwriteOption):
    """Options of `mlkit data refer-derive`."""

    photos: Annotated[
        Path, Flag(argument=True, metavar="IMAGES"), Field(description="Folder of photographs.")
    ]
    labels: Annotated[
        Path,
        Flag(argument=True, metavar="LABELS"),
        Field(description="Folder of YOLO polygons or of mask PNGs, or COCO's instances.json."),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.jsonl"),
        Field(description="The references as JSON lines."),
    ] = Path("refs.jsonl")
    classes: Annotated[
        Path | None,
        Flag("--classes", metavar="FILE.txt"),
        Field(description="Class names, one a line; else classes.txt beside LABELS."),
    ] = None
    noun: Annotated[
        str,
        Flag("--noun"),
        Field(description="What the things in mask PNGs are (pixel value: their number)."),
    ] = "object"
    groups: Annotated[
        bool,
        Flag("--groups"),
        Field(description="Say person, vehicle, animal, furniture, food for COCO's 80 classes."),
    ] = False
    min_area: Annotated[
        float,
        Flag("--min-area", panel=TUNING),
        Field(ge=0, lt=1, description="Least share of the photograph of what is referred to."),
    ] = 0.005
    gap: Annotated[
        float,
        Flag("--gap", panel=TUNING),
        Field(ge=0, lt=1, description="Least distance, in widths, that makes left and right."),
    ] = 0.08
    ratio: Annotated[
        float,
        Flag("--ratio", panel=TUNING),
        Field(gt=1, description="The largest is this much larger than the next."),
    ] = 1.5


class SynthConfig(OverwriteOption):
    """Options of `mlkit data refer-synth`."""

    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Folder for refs.jsonl and images/."),
    ] = Path("refer-synth")
    scenes: Annotated[
        int, Flag("--scenes", "-n"), Field(ge=10, le=1_000_000, description="Training scenes.")
    ] = 3000
    test_scenes: Annotated[
        int,
        Flag("--test-scenes"),
        Field(ge=1, le=100_000, description="Scenes of each of val, test and composition."),
    ] = 200
    image_size: Annotated[
        int,
        Flag("--image-size", panel=MODEL),
        Field(ge=32, le=512, description="Side of the images in pixels."),
    ] = 48
    shapes: Annotated[
        int, Flag("--shapes"), Field(ge=3, le=8, description="Most shapes in a scene; at least 3.")
    ] = 5
    seed: Annotated[
        int,
        Flag("--seed", panel=RUN, env="MLKIT_SEED"),
        Field(ge=0, lt=2**63, description="Seed of every random choice."),
    ] = 0
