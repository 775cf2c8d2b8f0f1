"""`mlkit forecast`, its workflow verbs, and `mlkit data forecast-synth`."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import forecast as method
from ..tasks.forecast.config import (
    CheckConfig,
    EvalConfig,
    FederationOptions,
    ForecastConfig,
    RoundOptions,
    SynthConfig,
    TrainConfig,
)
from .output import Session


def forecast(session: Session, config: ForecastConfig, run: RunOptions) -> None:
    """Forecast the next steps of every sensor of a network, with intervals.

    You get the forecast of each sensor and what its errors were on later data that training did
    not see. Without --weights a small model is trained first and kept beside the file.

    Examples:

    `mlkit forecast speeds.csv --graph distances.csv -o forecast.csv --plot day.png`

    `mlkit forecast speeds.csv --weights runs/city/best.safetensors -o - | head`

    Next: `mlkit train forecast`, `mlkit eval forecast`.
    """
    session.finish(method.forecast(config, run, session, session.command_line))


def train_forecast(
    session: Session,
    config: TrainConfig,
    training: RoundOptions,
    federation: FederationOptions,
    run: RunOptions,
) -> None:
    """Train a forecaster as if every sensor kept its data to itself (a simulated federation).

    You get a run folder: best.safetensors, the state to resume from, metrics.jsonl, report.html,
    and what the messages would cost. Real machines: mlkit federate.

    Examples:

    `mlkit train forecast speeds.csv --graph distances.csv --personalise 10 -o runs/city`

    `mlkit train forecast metr-la.h5 --graph adj_mx.pkl --method fedavg --missing 0`

    Next: `mlkit eval forecast speeds.csv --weights runs/city/best.safetensors`.
    """
    result = method.train(config, training, federation, run, session, session.command_line)
    session.finish(result)


def eval_forecast(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score forecasters per horizon, on sensors seen and unseen, beside the last value.

    You get RMSE, MAE and MAPE, and how often the truth lay inside the intervals.

    Examples:

    `mlkit eval forecast speeds.csv --weights runs/city/best.safetensors --by-node`

    `mlkit eval forecast city.csv --graph city.pkl --weights a.safetensors --plot errors.png`
    """
    session.finish(method.evaluate(config, run, session))


def check_forecast(session: Session, config: CheckConfig) -> None:
    """Look through series and a graph before a long run: gaps, zeros, steps, lonely sensors.

    Examples:

    `mlkit check forecast speeds.csv --graph distances.csv`

    `mlkit check forecast metr-la.h5 --graph adj_mx.pkl --json`
    """
    session.finish(method.check_network(config, session))


def data_forecast_synth(session: Session, config: SynthConfig) -> None:
    """Generate a motorway with sensors: speeds, road distances, places.

    Examples:

    `mlkit data forecast-synth -o network`

    `mlkit data forecast-synth --sensors 200 --days 28 --step-minutes 5 --gaps 0.02 -o big`

    Next: `mlkit forecast network/speeds.csv --graph network/distances.csv`.
    """
    session.finish(method.synthesise(config, session))
