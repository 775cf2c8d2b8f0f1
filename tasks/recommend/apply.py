"""The main job: recommend items to one user, to a history, or to everybody in a log."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from ...core.errors import CheckpointError, DataError, UsageError
from ...core.files import check_writable
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import Runtime, start
from .aggregate import Labels
from .checkpoint import LEAST_OVERLAP, Trained, labels_of, open_trained
from .config import RecommendConfig
from .data import Items, Log, Sequences, closest, from_lists, read_items, read_log
from .lists import Asked, Engine
from .small import small_model


def recommend(
    config: RecommendConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Recommend items; trains a small model first when none is given.

    Raises `DataError` for an unknown user or a history without a known item, `UsageError` when
    the dial has no categories to work on, `CheckpointError` when model and log do not belong
    together.
    """
    progress = progress or Silent()
    for path in (config.out, config.plot):
        if path is not None and path.name != "-":
            check_writable(path, config.overwrite)
    runtime = start(run_options or RunOptions())
    log = read_log(config.log, config) if config.log is not None else None
    trained = _model(config, log, runtime, progress)
    items = trained.items
    if config.items is not None:
        items = read_items(config.items, items.names, config)
    labels = _labels(config, items)
    asked = _asked(config, log, items)
    asked, fallback = _usable(config, asked, items, progress)
    engine = Engine(config, trained, items, labels, runtime, progress)
    outputs: dict[str, Any] = {}
    if config.export_vectors is not None:
        outputs |= engine.export(asked, config.export_vectors)
    if not (config.user or config.all_users or config.history is not None):
        return Result(inputs=engine.inputs(), outputs=outputs)
    if config.all_users:
        return engine.everybody(asked, fallback, outputs)
    return engine.some(asked, fallback, outputs)


def _model(
    config: RecommendConfig, log: Log | None, runtime: Runtime, progress: Progress
) -> Trained:
    if config.weights is None:
        assert config.log is not None
        assert log is not None
        return small_model(config.log, log, config, config.items, runtime, progress)
    trained = open_trained(config.weights, runtime.device)
    if log is not None:
        known = (trained.items.numbers(log.items) > 0)[log.sequences.items.long()]
        share = float(known.double().mean())
        if share < LEAST_OVERLAP:
            raise CheckpointError(
                f"{config.weights} knows only {100 * share:.0f} % of the interactions' items in "
                f"{config.log}: '{log.items[0]}' there, '{trained.items.names[1]}' in the model",
                f"train on this log: mlkit train recommend {config.log}",
            )
    return trained


def _labels(config: RecommendConfig, items: Items) -> Labels | None:
    labels = labels_of(items, config.category)
    if config.diversity > 0 and labels is None:
        raise UsageError(
            f"--diversity {config.diversity:g} needs categories",
            "give --items FILE with a category column (or name it with --category-col)",
        )
    return labels


def _asked(config: RecommendConfig, log: Log | None, items: Items) -> Asked:
    """Return the users that the command line names, in the model's item numbers."""
    if config.history is not None:
        log = _newcomer(config.history)
    elif log is None:  # item vectors alone are wanted
        log = Log("", pl.Series([], dtype=pl.String), items.names, from_lists([]))
    sequences, users = log.sequences, log.users
    if config.user:
        chosen = torch.tensor([log.user(name) for name in config.user])
        sequences, users = sequences.take(chosen), pl.Series(config.user)
    number = items.numbers(log.items)[sequences.items.long()]
    known = number > 0
    unknown = log.items.gather(sequences.items[~known].numpy())
    return Asked(users, Sequences(number.int(), sequences.starts).keep(known), unknown)


def _newcomer(history: str) -> Log:
    """Return the log of one user who is in no log."""
    names = [name.strip() for name in history.split(",") if name.strip()]
    if not names:
        raise UsageError("--history holds no items", "write --history ITEM,ITEM,ITEM")
    return Log(
        "--history", pl.Series(["history"]), pl.Series(names), from_lists([range(len(names))])
    )


def _usable(
    config: RecommendConfig, asked: Asked, items: Items, progress: Progress
) -> tuple[Asked, list[str]]:
    """Return the users with a known item, and the names of the others.

    With --fallback popular, users who were named stay among the first.
    """
    there = asked.histories.lengths > 0
    without = asked.names.filter(pl.Series(~there.numpy())).to_list()
    some = ", ".join(asked.unknown.unique(maintain_order=True).head(8))
    if without and config.fallback == "none" and not config.all_users:
        close = ", ".join(closest(asked.unknown[0], items.names[1:]))
        raise DataError(
            f"no known item in the history of {', '.join(without[:5])}; not known: {some}",
            f"items like {asked.unknown[0]}: {close}; or pass --fallback popular",
        )
    if len(asked.unknown):
        progress.warn(f"{len(asked.unknown)} items of the histories are not known: {some}")
    if without and config.fallback == "none":
        progress.warn(f"{len(without)} users without a known item are left out: {without[0]}, ...")
    if config.fallback == "popular" and not config.all_users:
        return asked, without
    return (asked.take(there.nonzero()[:, 0]) if without else asked), without
