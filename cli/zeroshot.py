"""`mlkit zeroshot`, its workflow verbs, and `mlkit data zeroshot-rows`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import zeroshot as method
from ..tasks.zeroshot.config import (
    CheckConfig,
    EvalConfig,
    FinetuneConfig,
    FinetuneTraining,
    RowsConfig,
    TrainConfig,
    ZeroshotConfig,
    ZeroshotTraining,
)
from .output import Session


def zeroshot(session: Session, config: ZeroshotConfig, run: RunOptions) -> None:
    """Tell which of your classes photos show, without a training photo of any of them.

    You get the best classes of each photo with scores, definitions and the closest class that
    the classifier was trained on. The embedded model knows ImageNet's 21,000 classes and more.

    Examples:

    `mlkit zeroshot photo.jpg --among "okapi,tapir,wild boar"`

    `mlkit zeroshot photos/ --classes unseen.txt --with-seen -o answers.csv`

    `mlkit zeroshot --explain okapi`

    Next: `mlkit train zeroshot`, `mlkit eval zeroshot`.
    """
    session.finish(method.classify(config, run, session, session.command_line))


def train_zeroshot(
    session: Session, config: TrainConfig, training: ZeroshotTraining, run: RunOptions
) -> None:
    """Fit a graph network to the rows of a classifier: yours, or EfficientNet-Lite0 of ImageNet.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    With --images the mixture of the ensemble is chosen on classes held out.

    Examples:

    `mlkit train zeroshot --semantic glove.6B.300d.txt --variant adgpm -o runs/glove`

    `mlkit train zeroshot --graph parts.tsv --seen classes.txt --semantic minilm
    --backbone resnet50 --backbone-weights parts.pth -o runs/parts`

    Next: `mlkit eval zeroshot photos/ --weights runs/glove/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def train_zeroshot_finetune(
    session: Session, config: FinetuneConfig, training: FinetuneTraining, run: RunOptions
) -> None:
    """Fit the classifier's features to the predicted rows, on photos of seen classes.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    The rows stay as they are, bit for bit.

    Examples:

    `mlkit train zeroshot-finetune train/ --epochs 20 -o runs/tuned`

    `mlkit train zeroshot-finetune train/ --only features.15 --lr 1e-3`

    Next: `mlkit eval zeroshot photos/ --weights runs/tuned/best.safetensors`.
    """
    session.finish(method.finetune(config, training, run, session, session.command_line))


def eval_zeroshot(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score a model on photos of unseen classes, every baseline beside it.

    You get hit@k, the mean over classes and hierarchical precision; with --generalised also
    against the seen classes, with predicted and with true rows for these.

    Examples:

    `mlkit eval zeroshot photos/ --generalised`

    `mlkit eval zeroshot labels.tsv --classes 2-hops --weights runs/glove/best.safetensors`
    """
    session.finish(method.evaluate(config, run, session))


def check_zeroshot(session: Session, config: CheckConfig) -> None:
    """Look through a taxonomy, class lists and vectors before a long run.

    Examples:

    `mlkit check zeroshot --graph parts.tsv --seen classes.txt --semantic glove.txt`

    `mlkit check zeroshot --classes unseen.txt --json`
    """
    session.finish(method.check_graph(config, session))


def data_zeroshot_rows(session: Session, config: RowsConfig, run: RunOptions) -> None:
    """Write predicted classifier rows to a file, also in the format of the official code.

    Examples:

    `mlkit data zeroshot-rows --classes 2-hops -o rows.pred`

    `mlkit data zeroshot-rows --classes unseen.txt -o rows.safetensors`

    Next: `mlkit zeroshot photo.jpg --rows rows.pred --classes unseen.txt`.
    """
    session.finish(method.predict(config, run, session))
