"""`mlkit segment`, its workflow verbs, and `mlkit data refer-synth|refer-derive|refer-convert`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import segment as method
from ..tasks.segment.config import (
    CheckConfig,
    ConvertConfig,
    DeriveConfig,
    EvalConfig,
    SegmentConfig,
    SegmentTraining,
    SynthConfig,
    TrainConfig,
)
from .output import Session


def segment(session: Session, config: SegmentConfig, run: RunOptions) -> None:
    """Find what a sentence refers to in a photograph, and write its mask.

    You get a PNG of the photograph's size, 255 where it is, and how sure that is. Words that
    the model never saw are named; a sentence of nothing else is refused.

    Examples:

    `mlkit segment photo.jpg "the left dog" --weights best.safetensors -o mask.png`

    `mlkit segment photo.jpg "the car" "the man" --weights w.safetensors -o masks --overlay o.png`

    Next: `mlkit train segment`.
    """
    session.finish(method.find(config, run, session))


def train_segment(
    session: Session, config: TrainConfig, training: SegmentTraining, run: RunOptions
) -> None:
    """Train on photographs, sentences and masks.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.

    Examples:

    `mlkit train segment refer-synth/refs.jsonl --image-size 48 --epochs 30 -o runs/shapes`

    `mlkit train segment refs.jsonl --backbone efficientnet_lite0 --image-size 160`

    Next: `mlkit eval segment refs.jsonl --weights runs/shapes/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_segment(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score models per kind of sentence: overall and mean IoU, precision at thresholds.

    Examples:

    `mlkit eval segment refs.jsonl --weights runs/shapes/best.safetensors --controls`

    `mlkit eval segment "refs(unc).p" --images train2014 --split testA --weights m.safetensors`
    """
    session.finish(method.evaluate(config, run, session))


def check_segment(session: Session, config: CheckConfig) -> None:
    """Look through references: words, splits, masks that are empty or do not fit.

    Examples:

    `mlkit check segment refs.jsonl`

    `mlkit check segment "refs(unc).p" --images train2014 --json`
    """
    session.finish(method.check(config, session))


def data_refer_synth(session: Session, config: SynthConfig) -> None:
    """Draw scenes of shapes, with sentences whose meaning is exact.

    You get images/ and refs.jsonl with the splits train, val, test, and composition: colours
    and shapes that never occur together in the others.

    Examples:

    `mlkit data refer-synth -o refer-synth`

    `mlkit data refer-synth --scenes 20000 --image-size 64 -o shapes`

    Next: `mlkit train segment refer-synth/refs.jsonl --image-size 48`.
    """
    session.finish(method.synthesise(config, session))


def data_refer_derive(session: Session, config: DeriveConfig) -> None:
    """Make true sentences about photographs whose things are all labelled.

    Rules: the only one, leftmost and rightmost, largest, the k-th from the left, a colour that
    one has. Cases that are not clear are dropped.

    Examples:

    `mlkit data refer-derive photos/ labels/ --classes classes.txt -o refs.jsonl`

    `mlkit data refer-derive val2017/ instances_val2017.json --groups -o refs.jsonl`

    Next: `mlkit check segment refs.jsonl`.
    """
    session.finish(method.derive_references(config, session))


def data_refer_convert(session: Session, config: ConvertConfig) -> None:
    """Write the references of RefCOCO and its kin (REFER) as JSON lines.

    The pickle is read without running anything in it.

    Examples:

    `mlkit data refer-convert "refs(unc).p" --images train2014 -o refcoco.jsonl`

    `mlkit data refer-convert refs.p --instances instances.json --images photos -o refs.jsonl`
    """
    session.finish(method.convert(config, session))
