"""`mlkit federate serve|join`: train one forecaster over machines that keep their data."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import forecast as method
from ..tasks.forecast.config import FederationOptions, JoinConfig, RoundOptions, ServeConfig
from .output import Session


def federate_serve(
    session: Session,
    config: ServeConfig,
    training: RoundOptions,
    federation: FederationOptions,
    run: RunOptions,
) -> None:
    """Coordinate the training of a forecaster over machines that keep their series.

    You get a run folder as from mlkit train forecast. The nodes may drop out and come back; a
    coordinator that was stopped continues with --resume.

    Examples:

    `mlkit federate serve -g distances.csv --nodes ids.txt --token-file t --cert c.pem --key k.pem`

    `mlkit federate serve -g adj.csv --nodes ids.txt --token-file t --insecure --rounds 30`

    Next: `mlkit federate join HOST:8765 --data node.csv --token-file t --ca c.pem`.
    """
    result = method.serve(config, training, federation, run, session, session.command_line)
    session.finish(result)


def federate_join(session: Session, config: JoinConfig, run: RunOptions) -> None:
    """Take part in a federation with the series of this machine; they never leave it.

    You get the forecasts of your own sensors at the end (-o).

    Examples:

    `mlkit federate join server:8765 --data sensor.csv --token-file t --ca c.pem -o mine.csv`

    `mlkit federate join localhost:8765 --data city.csv --node A1 --token-file t --insecure`
    """
    session.finish(method.join_federation(config, run, session))
