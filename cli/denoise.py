"""`mlkit denoise`, `mlkit train denoise`, `mlkit eval denoise`, `mlkit check denoise`."""

from __future__ import annotations

from ..core.options import BatchOptions, RunOptions
from ..tasks import denoise as method
from ..tasks.denoise.config import (
    CheckConfig,
    DenoiseConfig,
    DenoiseTraining,
    EvalConfig,
    TrainConfig,
)
from .output import Session


def denoise(session: Session, config: DenoiseConfig, batch: BatchOptions, run: RunOptions) -> None:
    """Remove noise from pictures, with a proof of how exact the result is.

    The noise is estimated unless --sigma tells it. Grey and colour, 8 and 16 bit, any size; alpha
    and colour profile stay. A result that did not converge is not written (exit 3).

    Examples:

    `mlkit denoise photo.png -o clean.png --plot strip.png`

    `mlkit denoise scans/ -o clean/ --sigma 12 --certify`

    Next: `mlkit reconstruct`, `mlkit eval denoise`.
    """
    session.finish(method.denoise(config, batch, run, session, session.command_line))


def train_denoise(
    session: Session, config: TrainConfig, training: DenoiseTraining, run: RunOptions
) -> None:
    """Train the prior of denoise and reconstruct on a folder of clean images.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Minutes on two cores for --unroll 1; start --unroll 5 from its weights.

    Examples:

    `mlkit train denoise photos/ --sigma 25 --steps 3000 -o runs/t1`

    `mlkit train denoise photos/ --unroll 5 --weights runs/t1/best.safetensors -o runs/t5`

    Next: `mlkit denoise --weights runs/t5/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_denoise(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score denoising on clean images: PSNR, SSIM, iterations and seconds, beside TV.

    White Gaussian noise is added and neither noise nor results are clipped, as in the papers.

    Examples:

    `mlkit eval denoise BSD68/ --sigma 25`

    `mlkit eval denoise BSD68/ -s 5 -s 25 --weights runs/t5/best.safetensors --method crr`
    """
    session.finish(method.evaluate(config, run, session))


def check_denoise(session: Session, config: CheckConfig) -> None:
    """Look through images before a long run: sizes, depths, noise, broken files.

    Examples:

    `mlkit check denoise photos/`

    `mlkit check denoise photos/ --json`
    """
    session.finish(method.check(config, session))
