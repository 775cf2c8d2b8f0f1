"""`mlkit recommend`, its workflow verbs, and `mlkit data recommend-synth`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import recommend as method
from ..tasks.recommend.config import (
    CheckConfig,
    EvalConfig,
    RecommendConfig,
    RecommendTrainOptions,
    SynthConfig,
    TrainConfig,
)
from .output import Session


def recommend(session: Session, config: RecommendConfig, run: RunOptions) -> None:
    """Recommend items to a user of your log, with a dial between accuracy and diversity.

    You get a ranked list with scores, which of the user's interests proposed each item, and
    what each interest is about. Without --weights a small model is trained first and kept
    beside the log.

    Examples:

    `mlkit recommend log.csv --items items.csv --user 42 -k 20 --diversity 0.25`

    `mlkit recommend --weights model.safetensors --history b7,b12,b31`

    Next: `mlkit train recommend`, `mlkit eval recommend`.
    """
    session.finish(method.recommend(config, run, session, session.command_line))


def train_recommend(
    session: Session, config: TrainConfig, training: RecommendTrainOptions, run: RunOptions
) -> None:
    """Train a recommender on a log of who touched what, in order.

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html.

    Examples:

    `mlkit train recommend log.csv --items items.csv -o runs/shop`

    `mlkit train recommend log.csv --variant dr --routing-init 0.1 --max-history 50`

    Next: `mlkit eval recommend log.csv --weights runs/shop/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_recommend(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score recommenders on users held out from training, MostPopular beside them.

    You get recall, hit rate, NDCG and diversity for every value of the dial.

    Examples:

    `mlkit eval recommend log.csv --weights runs/shop/best.safetensors`

    `mlkit eval recommend log.csv --weights m.safetensors --diversity 0,0.05,0.25,1 --plot dial.png`
    """
    session.finish(method.evaluate(config, run, session))


def check_recommend(session: Session, config: CheckConfig) -> None:
    """Look through a log before a long run: users, items, lengths, what training would drop.

    Examples:

    `mlkit check recommend log.csv`

    `mlkit check recommend ratings.csv --items movies.csv --json`
    """
    session.finish(method.check_log(config, session))


def data_recommend_synth(session: Session, config: SynthConfig) -> None:
    """Generate a log of users with several interests, with titles and categories.

    Examples:

    `mlkit data recommend-synth -o shop`

    `mlkit data recommend-synth --users 100000 --catalogue 5000 -o big`

    Next: `mlkit recommend shop/log.csv --items shop/items.csv --user u0`.
    """
    session.finish(method.synthesise(config, session))
