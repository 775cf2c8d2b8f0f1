"""`mlkit denoise`, `mlkit train denoise`, `mlkit eval denoise`, `mlkit check denoise`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import denoise as method
from ..tasks.denoise.config import DenoiseTraining, TrainConfig
from .output import Session


def train_denoise(
    session: Session, config: TrainConfig, training: DenoiseTraining, run: RunOptions
) -> None:
    """Train the prior of denoise and reconstruct on a folder of clean images.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Minutes on two cores for --unroll 1; start --unroll 5 from its weights.

    Examples:

    `mlkit train denoise photos/ --sigma 25 --steps 3000 -o runs/t1`

    `mlkit train denoise photos/ --unroll 5 --weights runs/t1/best.safetensors -o runs/t5`

    Next: `mlkit eval denoise`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))
