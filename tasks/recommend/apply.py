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
    asked, fallback = _usable(config, asked, progress)
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
    """Return the users that the command line names."""
    if config.history is not None:
        names = [name.strip() for name in config.history.split(",") if name.strip()]
        if not names:
            raise UsageError("--history holds no items", "write --history ITEM,ITEM,ITEM")
        numbers = items.numbers(pl.Series(names, dtype=pl.String)).tolist()
        missing = [name for name, number in zip(names, numbers, strict=True) if number == 0]
        if len(missing) == len(names) and config.fallback == "none":
            close = closest(missing[0], items.names[1:])
            raise DataError(
                f"--history: the model knows none of {', '.join(missing[:8])}",
                f"similar to {missing[0]}: {', '.join(close)}; or pass --fallback popular",
            )
        return Asked(["history"], from_lists([[n for n in numbers if n]]), len(missing))
    if log is None:  # only item vectors are wanted
        return Asked([], from_lists([]))
    number = items.numbers(log.items)
    sequences = log.sequences
    users = log.users
    if config.user:
        chosen = torch.tensor([log.user(name) for name in config.user])
        sequences, users = sequences.take(chosen), pl.Series(list(config.user))
    sequences = Sequences(number[sequences.items.long()].int(), sequences.starts)
    known = sequences.items > 0
    return Asked(users, sequences.keep(known), int((~known).sum()))


def _usable(config: RecommendConfig, asked: Asked, progress: Progress) -> tuple[Asked, list[str]]:
    """Return the users with a known item, and the names of the others."""
    there = asked.histories.lengths > 0
    without = pl.Series(asked.names).filter(pl.Series(~there.numpy())).to_list()
    if asked.unknown:
        progress.warn(f"{asked.unknown} items of the histories are not known to the model")
    if without and config.fallback == "none":
        said = f"no known item in the history of {', '.join(without[:5])}"
        if not config.all_users:
            raise DataError(said, "pass --fallback popular to recommend what is popular")
        progress.warn(f"{said}{' ...' if len(without) > 5 else ''}: {len(without)} users left out")
    if config.fallback == "popular" and not config.all_users:
        return asked, without
    return (asked.take(there.nonzero()[:, 0]) if without else asked), without
