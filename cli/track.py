"""`mlkit track`, its workflow verbs, and `mlkit data track-synth`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import track as method
from ..tasks.track.config import (
    CheckConfig,
    EvalConfig,
    SynthConfig,
    TrackConfig,
    TrackTrainOptions,
    TrainConfig,
)
from .output import Session


def track(session: Session, config: TrackConfig, run: RunOptions) -> None:
    """Follow objects through a video, also where only a few frames per second are looked at.

    You get a MOTChallenge file (frame, identity, box, score) and, with --video, the frames with
    the tracks drawn in. Frame numbers are those of the source.

    Examples:

    `mlkit track video.mp4 -o tracks.txt --fps 5 --video annotated.mp4`

    `mlkit track video.mp4 --det boxes.txt --method sort -o tracks.txt`

    Next: `mlkit eval track SEQUENCE --results tracks.txt`, `mlkit train track`.
    """
    session.finish(method.track(config, run, session, session.command_line))


def train_track(
    session: Session, config: TrainConfig, training: TrackTrainOptions, run: RunOptions
) -> None:
    """Train a tracker on MOTChallenge sequences, in stages or at once.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.

    Examples:

    `mlkit train track sequences/ --stage detect -o runs/detector`

    `mlkit train track sequences/ --stage track --init runs/detector/best.safetensors`

    Next: `mlkit eval track sequences/ --weights runs/track/best.safetensors --every 1,10`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_track(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score trackers or result files: HOTA, CLEAR and Identity, on every k-th frame.

    Examples:

    `mlkit eval track MOT17/ --results results/ --every 10`

    `mlkit eval track seq/ --methods iou,sort,byte --det det --every 1,3,10,30 --plot rates.png`
    """
    session.finish(method.evaluate(config, run, session))


def check_track(session: Session, config: CheckConfig) -> None:
    """Look through sequences before a long run: boxes, identities, and how hard they are.

    Examples:

    `mlkit check track sequences/`

    `mlkit check track MOT16-11/ --every 1,10,30 --json`
    """
    session.finish(method.check_sequences(config, session))


def data_track_synth(session: Session, config: SynthConfig) -> None:
    """Generate videos with moving, hiding, look-alike objects, as MOTChallenge sequences.

    Examples:

    `mlkit data track-synth -o videos --videos 20`

    `mlkit data track-synth --backgrounds photos/ --sprites sequences/ --seed 1 -o videos`

    Next: `mlkit check track videos`, `mlkit train track videos`.
    """
    session.finish(method.synthesise(config, session))
