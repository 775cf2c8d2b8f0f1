"""A small generated log, and what tests of several modules need of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from mlkit.tasks.recommend.config import ColumnOptions
from mlkit.tasks.recommend.data import Log, read_log
from mlkit.tasks.recommend.synth import Synthetic, generate, write


@cache
def synthetic() -> Synthetic:
    """200 users, 60 items in 6 categories, about 12 interactions each."""
    return generate(200, 60, 12, 0)


def small_log(folder: Path) -> Path:
    """Write log.csv and items.csv and return the log."""
    write(synthetic(), folder)
    return folder / "log.csv"


def read(folder: Path, content: str | bytes, name: str = "log.csv", **columns: str) -> Log:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_log(path, ColumnOptions(**columns))


def by_name(log: Log) -> dict[str, list[str]]:
    """Return the item names of every user, in order."""
    items = log.items.to_list()
    return {
        user: [items[i] for i in log.sequences[number].tolist()]
        for number, user in enumerate(log.users)
    }


def histories(rows: list[list[int]], width: int) -> Tensor:
    """Return left-aligned rows with zeros behind."""
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def series(*names: str) -> pl.Series:
    return pl.Series(["", *names], dtype=pl.String)
