"""`mlkit labelnoise`, its workflow verbs, and `mlkit data noisy-labels`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import labelnoise as method
from ..tasks.labelnoise.config import (
    CheckConfig,
    EvalConfig,
    LabelnoiseConfig,
    LabelnoiseTraining,
    NoisyConfig,
    TrainConfig,
)
from .output import Session


def labelnoise(session: Session, config: LabelnoiseConfig, run: RunOptions) -> None:
    """Find the labels that look wrong, also where classes differ much in size.

    You get a table of all images, most doubtful first, with suggested labels, and a page to look
    at. Your files stay where they are.

    Examples:

    `mlkit labelnoise photos/ -o report.csv --html sheet.html`

    `mlkit labelnoise --probs p.npy --features z.npy --labels y.csv -o report.csv`

    Next: `mlkit train labelnoise`.
    """
    session.finish(method.find_noise(config, run, session, session.command_line))


def train_labelnoise(
    session: Session, config: TrainConfig, training: LabelnoiseTraining, run: RunOptions
) -> None:
    """Train a classifier on labels of which some are wrong.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Two networks tell each other which labels to trust, and guess the rest.

    Examples:

    `mlkit train labelnoise photos/ --val checked/ -o runs/photos`

    `mlkit train labelnoise noisy.csv --val checked/ --preset paper --device cuda`

    Next: `mlkit eval labelnoise test/ --weights runs/photos/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_labelnoise(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score a trained network on true labels, or a report against the truth.

    You get top-1 and balanced accuracy, also for the largest, middle and smallest classes; of a
    report precision and recall of its flags, AUROC and average precision of its ranking.

    Examples:

    `mlkit eval labelnoise test/ --weights runs/photos/best.safetensors`

    `mlkit eval labelnoise report.csv --truth noisy.csv`
    """
    session.finish(method.evaluate(config, run, session))


def check_labelnoise(session: Session, config: CheckConfig) -> None:
    """Look through labelled images: class sizes, broken files, one picture with two labels.

    Examples:

    `mlkit check labelnoise photos/`

    `mlkit check labelnoise noisy.csv --json`
    """
    session.finish(method.check(config, session))


def data_noisy_labels(session: Session, config: NoisyConfig) -> None:
    """Make a long tail and wrong labels on purpose; the images stay as they are.

    Examples:

    `mlkit data noisy-labels clean/ --imbalance 0.1 --noise sym:0.4 -o noisy.csv`

    `mlkit data noisy-labels clean/ --noise matrix.csv`

    Next: `mlkit labelnoise noisy.csv`, `mlkit eval labelnoise report.csv --truth noisy.csv`.
    """
    session.finish(method.make_noisy(config, session))
