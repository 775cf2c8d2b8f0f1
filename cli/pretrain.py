"""`mlkit pretrain`, its workflow verbs, and the data sets that go with it."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import pretrain as method
from ..tasks.pretrain.config import (
    CheckConfig,
    EvalConfig,
    FeaturesConfig,
    FinetuneTraining,
    PretrainConfig,
    PretrainTraining,
    SpritesConfig,
    TrackletsConfig,
    TrainConfig,
)
from .output import Session


def pretrain(
    session: Session, config: PretrainConfig, training: PretrainTraining, run: RunOptions
) -> None:
    """Learn a video encoder from videos without labels.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.
    Clips at random times of a video are made to agree, so what lasts through a video is learnt:
    who, what, where; hardly what happens for a moment.

    Examples:

    `mlkit pretrain videos/ --method byol --clips 4 -o runs/birds`

    `mlkit pretrain videos/ --preset standard --device cuda --epochs 200`

    Next: `mlkit eval pretrain labels.csv --weights runs/birds/best.safetensors`.
    """
    session.finish(method.pretrain(config, training, run, session, session.command_line))


def train_pretrain(
    session: Session, config: TrainConfig, training: FinetuneTraining, run: RunOptions
) -> None:
    """Fine-tune an encoder into a classifier of videos, or learn a last layer on top of it.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.

    Examples:

    `mlkit train pretrain train.csv --weights runs/birds/best.safetensors --val val.csv`

    `mlkit train pretrain train.csv --weights runs/birds/best.safetensors --freeze --lr 0.5`

    Next: `mlkit eval pretrain test.csv --weights runs/finetune/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_pretrain(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score an encoder on labelled videos, without training it further; or a classifier.

    You get a linear probe, nearest neighbours, and retrieval: of the same label, of the same
    group, of a video's first clip by its last.

    Examples:

    `mlkit eval pretrain labels.csv --weights runs/birds/best.safetensors --group-column place`

    `mlkit eval pretrain labels.csv --random-init` (the control)
    """
    session.finish(method.evaluate(config, run, session))


def check_pretrain(session: Session, config: CheckConfig) -> None:
    """Look through videos before a long run: lengths, sizes, rates, classes, broken files.

    Examples:

    `mlkit check pretrain videos/`

    `mlkit check pretrain trainlist01.txt --frames 8 --stride 8 --json`
    """
    session.finish(method.check(config, session))


def data_video_features(session: Session, config: FeaturesConfig, run: RunOptions) -> None:
    """Write the features of videos: an .npz with features, views, paths and labels.

    Examples:

    `mlkit data video-features videos/ --weights runs/birds/best.safetensors -o birds.npz`

    `mlkit data video-features list.csv --weights best.safetensors --views 10`

    Next: `mlkit eval pretrain birds.npz`.
    """
    session.finish(method.export_features(config, run, session))


def data_sprite_videos(session: Session, config: SpritesConfig) -> None:
    """Generate videos: a picture that moves, turns and grows before a drifting scene.

    Examples:

    `mlkit data sprite-videos -o sprites`

    `mlkit data sprite-videos cifar10/train --videos 2000 -o sprites`

    Next: `mlkit pretrain sprites/labels.csv`.
    """
    session.finish(method.make_sprites(config, session))


def data_tracklets(session: Session, config: TrackletsConfig) -> None:
    """Cut people out of a sequence of the MOT challenge: one video per person.

    Examples:

    `mlkit data tracklets MOT16-11 --last 450 -o people`

    `mlkit data tracklets PETS09-S2L1 --height 64 --width 32`

    Next: `mlkit pretrain people/labels.csv --frames 4 --stride 3 --squash`.
    """
    session.finish(method.cut_tracklets(config, session))
