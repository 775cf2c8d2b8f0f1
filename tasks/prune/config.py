"""The options of `prune`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import MODEL, OUTPUT, OverwriteOption, ResumeOption


class ModelOptions(Config):
    """Which trained model, and where its weights are."""

    model: Annotated[
        str | None,
        Flag("--model", panel=MODEL),
        Field(
            description="A torchvision model, efficientnet_lite0, or small_resnet; "
            "without it the embedded Fashion-MNIST network."
        ),
    ] = None
    weights: Annotated[
        str | None,
        Flag("--weights", panel=MODEL, metavar="FILE|NAME"),
        Field(
            description="Weights file (.safetensors, .pth), or a torchvision weight set; "
            "default: what the model comes with."
        ),
    ] = None
    factory: Annotated[
        str | None,
        Flag("--factory", panel=MODEL, metavar="PKG.MODULE:FUNCTION"),
        Field(description="Your own function that returns the model."),
    ] = None
    num_classes: Annotated[
        int | None,
        Flag("--num-classes", panel=MODEL),
        Field(gt=0, description="Classes of the head, when not torchvision's own."),
    ] = None
    random_init: Annotated[
        bool,
        Flag("--random-init", panel=TUNING),
        Field(description="Use untrained weights (for smoke tests)."),
    ] = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.factory is not None and self.model is not None:
            raise ValueError("--model and --factory exclude each other")
        if self.random_init and self.weights is not None:
            raise ValueError("--random-init and --weights exclude each other")
        return self


class PlanOptions(Config):
    """Which channels go."""

    sparsity: Annotated[
        float,
        Flag("--sparsity", "-s"),
        Field(ge=0, lt=1, description="Share of the channels to remove, in [0, 1)."),
    ] = 0.5
    schedule: Annotated[
        Literal["uniform", "layer-dependent"] | None,
        Flag("--schedule", panel=TUNING),
        Field(
            description="The same share everywhere, or more from wide layers as in the paper "
            "(saves parameters rather than FLOPs). Default: uniform; layer-dependent with "
            "--preset paper."
        ),
    ] = None
    scope: Annotated[
        Literal["inner", "all"],
        Flag("--scope", panel=TUNING),
        Field(description="Channels inside residual blocks (paper), or their sums as well."),
    ] = "inner"
    criterion: Annotated[
        Literal["l1", "l2", "bn"],
        Flag("--criterion", panel=TUNING),
        Field(
            description="Importance of a channel: sum of |w|, sum of w^2 (the paper's code), "
            "or the scale of its BatchNorm."
        ),
    ] = "l1"
    round_to: Annotated[
        int,
        Flag("--round-to", panel=TUNING),
        Field(gt=0, le=256, description="Keep a multiple of this many channels."),
    ] = 1
    min_channels: Annotated[
        int,
        Flag("--min-channels", panel=TUNING),
        Field(gt=0, description="Keep at least this many channels in each layer."),
    ] = 8
    keep: Annotated[
        tuple[str, ...],
        Flag("--keep", panel=TUNING, metavar="LAYER"),
        Field(description="Leave this layer alone (repeat for more; a prefix counts)."),
    ] = ()
    compensate: Annotated[
        bool,
        Flag("--compensate", panel=TUNING),
        Field(description="Fold the mean of removed channels into the next layer."),
    ] = False


class SynthesisOptions(Config):
    """How images are made from the model alone. None takes the preset's value."""

    synthetic_images: Annotated[
        int | None,
        Flag("--synthetic-images", panel=TUNING),
        Field(gt=1, description="Images to synthesise."),
    ] = None
    iterations: Annotated[
        int | None,
        Flag("--iterations", panel=TUNING),
        Field(gt=0, description="Optimisation steps per batch of images."),
    ] = None
    synthesis_batch: Annotated[
        int | None,
        Flag("--synthesis-batch", panel=TUNING),
        Field(gt=1, description="Images optimised together."),
    ] = None
    synthesis_lr: Annotated[
        float | None, Flag(panel=TUNING), Field(gt=0, description="Step size of the synthesis.")
    ] = None
    lambda_main: Annotated[
        float | None, Flag(panel=TUNING), Field(ge=0, description="Weight of the class loss.")
    ] = None
    lambda_bn: Annotated[
        float | None,
        Flag(panel=TUNING),
        Field(ge=0, description="Weight of the BatchNorm statistics."),
    ] = None
    lambda_tv2: Annotated[
        float | None, Flag(panel=TUNING), Field(ge=0, description="Weight of the smoothness.")
    ] = None
    lambda_tv1: Annotated[
        float, Flag(panel=TUNING), Field(ge=0, description="Weight of the L1 smoothness.")
    ] = 0.0
    lambda_l2: Annotated[
        float | None, Flag(panel=TUNING), Field(ge=0, description="Weight of the image norm.")
    ] = None


class EffortOptions(Config):
    """How much work goes into images and repair."""

    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(description="Effort of the repair; paper: the paper's numbers."),
    ] = "quick"
    image_size: Annotated[
        int | None,
        Flag("--image-size", panel=TUNING),
        Field(gt=7, le=4096, description="Side of the input images in pixels."),
    ] = None


class RepairOptions(Config):
    """How the pruned backbone is fine-tuned. None takes the preset's value."""

    repair_steps: Annotated[
        int | None, Flag(panel=TUNING), Field(gt=0, description="Steps of fine-tuning.")
    ] = None
    repair_batch: Annotated[
        int | None, Flag(panel=TUNING), Field(gt=0, description="Images per step of fine-tuning.")
    ] = None
    repair_lr: Annotated[
        float | None,
        Flag(panel=TUNING),
        Field(
            gt=0,
            description="Learning rate of fine-tuning. Default: 0.01 (the paper's), or a quarter "
            "or a sixteenth of it where that does better in a short trial.",
        ),
    ] = None
    loss: Annotated[
        Literal["l1", "mse", "huber", "smooth-l1"],
        Flag("--loss", panel=TUNING),
        Field(description="Distance between feature maps."),
    ] = "l1"
    alpha_method: Annotated[
        int,
        Flag("--alpha-method", panel=TUNING),
        Field(
            ge=0,
            le=11,
            description="Weights of the supervision points, numbered as in the paper's code.",
        ),
    ] = 0
    tap: Annotated[
        Literal["block", "pre-add", "output"],
        Flag("--tap", panel=TUNING),
        Field(
            description="Supervise block outputs, residual branches before the sum, or only "
            "the backbone's output."
        ),
    ] = "block"
    bn: Annotated[
        Literal["auto", "train", "frozen"],
        Flag("--bn", panel=TUNING),
        Field(
            description="BatchNorm statistics while fine-tuning: updated or kept. auto: updated "
            "in classifiers of small images, kept otherwise, as in the paper's code."
        ),
    ] = "auto"
    stages: Annotated[
        int,
        Flag("--stages", panel=TUNING),
        Field(gt=0, le=16, description="Prune and repair the layers in this many parts."),
    ] = 1


def _safetensors(config: Any) -> Any:
    if config.out.suffix != ".safetensors":
        raise ValueError(f"--out {config.out}: must end in .safetensors")
    return config


class PruneConfig(
    ModelOptions,
    PlanOptions,
    EffortOptions,
    SynthesisOptions,
    RepairOptions,
    OverwriteOption,
    ResumeOption,
):
    """All options of `mlkit prune`."""

    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write the smaller model (.safetensors)."),
    ] = Path("pruned.safetensors")
    run: Annotated[
        Path | None,
        Flag("--run", panel=OUTPUT, metavar="DIR"),
        Field(description="Keep synthetic images, training state and report.html here."),
    ] = None
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the channels kept per layer."),
    ] = None
    data_free: Annotated[
        bool,
        Flag("--data-free"),
        Field(description="Repair on synthetic images alone (what happens by default)."),
    ] = False
    images: Annotated[
        Path | None,
        Flag("--images", metavar="DIR"),
        Field(description="Repair on these unlabelled images instead."),
    ] = None
    synthetic: Annotated[
        Path | None,
        Flag("--synthetic", panel=TUNING, metavar="FILE"),
        Field(description="Repair on images synthesised earlier (images.safetensors)."),
    ] = None
    eval_data: Annotated[
        Path | None,
        Flag("--eval", metavar="DIR"),
        Field(description="Labelled images (one folder per class) to measure accuracy on."),
    ] = None
    repair: Annotated[
        bool,
        Flag("--repair/--no-repair"),
        Field(description="Fine-tune after pruning."),
    ] = True
    dry_run: Annotated[
        bool,
        Flag("--dry-run"),
        Field(description="Show the plan and the cost; write nothing."),
    ] = False
    latency_runs: Annotated[
        int, Flag(panel=TUNING), Field(gt=1, le=10_000, description="Timed calls per model.")
    ] = 30

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data_free and (self.images is not None):
            raise ValueError("--data-free and --images exclude each other")
        if self.images is not None and self.synthetic is not None:
            raise ValueError("--images and --synthetic exclude each other")
        return _safetensors(self)


class SynthesizeConfig(ModelOptions, EffortOptions, SynthesisOptions, OverwriteOption):
    """Options of `mlkit data synthetic-images`."""

    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write the images (.safetensors, 16 bit)."),
    ] = Path("images.safetensors")
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the first images on one sheet."),
    ] = None

    @model_validator(mode="after")
    def _suffix(self) -> Self:
        return _safetensors(self)


class TrainConfig(ResumeOption):
    """Options of `mlkit train prune`: a classifier on your images, to prune later."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(
            description="A folder with one sub-folder per class or with MNIST's IDX files, or a "
            "table with the columns path and label."
        ),
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/prune")
    model: Annotated[str, Flag("--model", panel=MODEL), Field(description="Network to train.")] = (
        "small_resnet"
    )
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Start from a file that mlkit wrote, for instance a pruned model."),
    ] = None
    val: Annotated[
        float,
        Flag("--val"),
        Field(ge=0, lt=1, description="Share of the training images held out for validation."),
    ] = 0.1
    image_size: Annotated[
        int | None,
        Flag("--image-size"),
        Field(gt=7, le=1024, description="Side of the training images in pixels."),
    ] = None
    flip: Annotated[
        bool, Flag("--flip/--no-flip", panel=TUNING), Field(description="Mirror at random.")
    ] = True
    shift: Annotated[
        int,
        Flag("--shift", panel=TUNING),
        Field(ge=0, le=64, description="Shift by up to this many pixels at random."),
    ] = 2


class EvalConfig(Config):
    """Options of `mlkit eval prune`."""

    data: Annotated[
        Path | None,
        Flag(argument=True, metavar="[DATA]"),
        Field(
            description="Labelled images (one folder per class), or a folder of images with "
            "--annotations; without it the embedded test images."
        ),
    ] = None
    weights: Annotated[
        tuple[Path, ...],
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(min_length=1, description="Model file; repeat to compare several."),
    ]
    factory: Annotated[
        str | None,
        Flag("--factory", metavar="PKG.MODULE:FUNCTION"),
        Field(description="Your function, for models it built."),
    ] = None
    annotations: Annotated[
        Path | None,
        Flag("--annotations", metavar="FILE.json"),
        Field(description="COCO annotations (boxes or key points) of the images in DATA."),
    ] = None
    task: Annotated[
        Literal["classification", "detection", "keypoints"] | None,
        Flag("--task"),
        Field(description="What to score; default: classification, detection with annotations."),
    ] = None
    batch_size: Annotated[
        int, Flag("--batch-size"), Field(gt=0, description="Images per forward pass.")
    ] = 64
    limit: Annotated[
        int, Flag("--limit"), Field(ge=0, description="Use only the first N images; 0: all.")
    ] = 0
    labels: Annotated[
        Path | None,
        Flag("--labels", metavar="FILE.tsv"),
        Field(description="Table with columns 'file' and 'index' for a folder without classes."),
    ] = None


class CheckConfig(Config):
    """Options of `mlkit check prune`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(
            description="A folder with one sub-folder per class or with MNIST's IDX files, or a "
            "table with the columns path and label."
        ),
    ]
