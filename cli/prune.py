"""`mlkit prune`, `mlkit train prune`, `mlkit eval prune`, `mlkit check prune`,
`mlkit data synthetic-images`."""

from __future__ import annotations

from ..core.options import RunOptions, TrainOptions
from ..tasks import prune as method
from ..tasks.prune.config import (
    CheckConfig,
    EvalConfig,
    PruneConfig,
    SynthesizeConfig,
    TrainConfig,
)
from .output import Session


def prune(session: Session, config: PruneConfig, run: RunOptions) -> None:
    """Make a trained vision model smaller and repair it, without any training data.

    Channels are removed for real: parameters, multiply-adds, latency and the file shrink. You
    get one .safetensors file that `mlkit.load` opens, and a table of before and after.

    Examples:

    `mlkit prune --data-free`  (the embedded network, nothing to download)

    `mlkit prune --model resnet50 --data-free -s 0.5 -o resnet50-half.safetensors`

    Next: `mlkit eval prune`, `mlkit export`.
    """
    session.finish(method.prune(config, run, session, session.command_line))


def train_prune(
    session: Session, config: TrainConfig, training: TrainOptions, run: RunOptions
) -> None:
    """Train a classifier on a folder of images, to prune it later.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Start it under torchrun to use several GPUs or machines.

    Examples:

    `mlkit train prune photos/ --epochs 20 -o runs/photos`

    `mlkit train prune photos/ --weights pruned.safetensors --lr 0.01`

    Next: `mlkit prune --weights runs/photos/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_prune(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score one or more models on labelled images, side by side.

    You get top-1 and top-5 accuracy with 95 % intervals, or COCO's average precision for
    detectors and key points.

    Examples:

    `mlkit eval prune photos/ --weights pruned.safetensors`

    `mlkit eval prune val2017/ --annotations instances.json --weights small-detector.safetensors`
    """
    session.finish(method.evaluate(config, run, session))


def check_prune(session: Session, config: CheckConfig) -> None:
    """Look through an image folder before a long run: classes, counts, broken files.

    Examples:

    `mlkit check prune photos/`

    `mlkit check prune photos/ --json`
    """
    session.finish(method.check(config, session))


def data_synthetic_images(session: Session, config: SynthesizeConfig, run: RunOptions) -> None:
    """Synthesise images from a trained model alone: what `mlkit prune` repairs on.

    You get a file for `mlkit prune --synthetic`, so that several prunings share one synthesis.

    Examples:

    `mlkit data synthetic-images -o images.safetensors --plot sheet.png`

    `mlkit data synthetic-images --model resnet50 --weights r50.pth --synthetic-images 64`

    Next: `mlkit prune --synthetic images.safetensors`.
    """
    session.finish(method.synthesize(config, run, session))
