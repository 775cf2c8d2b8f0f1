"""`mlkit upscale`, `mlkit train upscale`, `mlkit eval upscale`, `mlkit check upscale`."""

from __future__ import annotations

from ..core.options import BatchOptions, RunOptions
from ..tasks import upscale as method
from ..tasks.upscale.config import (
    CheckConfig,
    EvalConfig,
    TrainConfig,
    UpscaleConfig,
    UpscaleTraining,
)
from .output import Session


def upscale(session: Session, config: UpscaleConfig, batch: BatchOptions, run: RunOptions) -> None:
    """Enlarge pictures without inventing detail, by a network fitted to each of them.

    The blur is estimated unless --kernel tells it. Grey and colour, 8 and 16 bit, any size; alpha
    and colour profile stay.

    Examples:

    `mlkit upscale photo.jpg --scale 2 -o big.png --plot strip.png`

    `mlkit upscale frames/ -o big/ --kernel gaussian:2.0 --sampling direct --steps 50`

    Next: `mlkit eval upscale`, `mlkit train upscale`.
    """
    session.finish(method.upscale(config, batch, run, session, session.command_line))


def train_upscale(
    session: Session, config: TrainConfig, training: UpscaleTraining, run: RunOptions
) -> None:
    """Meta-train the start of the adaptation on a folder of sharp images.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Made for a GPU; a small network (--width 32 --patch 48 --inner-steps 3) takes an hour on a CPU.

    Examples:

    `mlkit train upscale photos/ --steps 100000 -o runs/x2`

    `mlkit train upscale photos/ --objective joint --batch-size 32 --lr 4e-4 --steps 5000`

    Next: `mlkit upscale --weights runs/x2/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_upscale(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score on sharp images made small with known blurs: PSNR and SSIM on Y, seconds.

    Baselines stand beside ours: bicubic, back-projection, the same network pre-trained or trained
    jointly on all blurs, and training from scratch (ZSSR), the last ones for as long as ours takes.

    Examples:

    `mlkit eval upscale Set5/ --kernels paper`

    `mlkit eval upscale Set5/ -k direct:kernel.mat --lr-images Set5_LR/ --steps 1 --steps 10`
    """
    session.finish(method.evaluate(config, run, session))


def check_upscale(session: Session, config: CheckConfig) -> None:
    """Look through images before a long training: sizes, usable patches, broken files.

    Examples:

    `mlkit check upscale photos/`

    `mlkit check upscale photos/ --json`
    """
    session.finish(method.check(config, session))
