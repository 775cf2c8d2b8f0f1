"""From a log to training sequences and held-out users: filter, split, number the items."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ...core.errors import DataError
from .config import SplitOptions
from .data import Log, Sequences


@dataclass(frozen=True)
class Held:
    """Users to test on: what they did before, and what they did next. `users` are log numbers."""

    users: Tensor
    histories: Sequences
    targets: Sequences

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Split:
    """A log made ready. Items are numbered 1..n by falling `counts` (int64 (n + 1,)).

    `names[i]` is the item with number i; place 0 is padding. `counts` are those of the training
    sequences, unless the options ask for all.
    """

    names: pl.Series
    counts: Tensor
    train: Sequences
    valid: Held
    test: Held


def make_split(log: Log, options: SplitOptions) -> Split:
    """Filter rare items, then short users (one pass), split by users or leave one out, number.

    Raises `DataError` when nothing is left.
    """
    sequences, users = filter_rare(log, options.min_count)
    parts = _by_user if options.protocol == "users" else _leave_one_out
    train, valid, test = parts(sequences, users, options)
    if len(train) == 0:
        raise DataError(f"{log.name}: {len(users)} users are too few to split", "use more data")
    size = len(log.items)
    counted = sequences if options.counts == "all" else train
    counts = torch.from_numpy(np.bincount(counted.items, minlength=size))
    present = torch.from_numpy(np.bincount(sequences.items, minlength=size)) > 0
    # Falling counts, ties by first appearance; items that the filter removed come last and go.
    order = (counts + present.long()).argsort(descending=True, stable=True)[: int(present.sum())]
    number = torch.zeros(size, dtype=torch.int32)
    number[order] = torch.arange(1, len(order) + 1, dtype=torch.int32)
    names = pl.concat([pl.Series([""]), log.items.gather(order.numpy())])
    counts = torch.cat((torch.zeros(1, dtype=torch.int64), counts[order]))
    return Split(
        names,
        counts,
        _renumber(train, number),
        *(
            Held(p.users, _renumber(p.histories, number), _renumber(p.targets, number))
            for p in (valid, test)
        ),
    )


def _renumber(sequences: Sequences, number: Tensor) -> Sequences:
    return Sequences(number[sequences.items.long()], sequences.starts)


def filter_rare(log: Log, least: int) -> tuple[Sequences, Tensor]:
    """Drop items with fewer than `least` interactions, then users with fewer left (one pass).

    Returns what is left and the numbers of the users in the log. Raises `DataError` when
    nothing is.
    """
    counts = torch.from_numpy(np.bincount(log.sequences.items, minlength=len(log.items)))
    common = counts >= least
    sequences = log.sequences.keep(common[log.sequences.items.long()])
    users = (sequences.lengths >= least).nonzero()[:, 0]
    if len(users) == 0:
        raise DataError(
            f"{log.name}: no user has {least} interactions with items that have {least}",
            "use a longer log, or lower --min-count",
        )
    return sequences.take(users), users


def shuffled(count: int, seed: int) -> Tensor:
    """Return 0..count-1 in the order that Python's `random.Random(seed)` shuffles them to."""
    order = array("q", range(count))
    random.Random(seed).shuffle(order)
    return torch.frombuffer(order, dtype=torch.int64).clone() if count else torch.zeros(0).long()


def _by_user(
    sequences: Sequences, users: Tensor, options: SplitOptions
) -> tuple[Sequences, Held, Held]:
    """Strong generalisation: users are in one part only; 80 % of a held-out one is history."""
    order = shuffled(len(sequences), options.split_seed)
    ends = (
        int((1 - options.valid_share - options.test_share) * len(order) + 1e-9),
        int((1 - options.test_share) * len(order) + 1e-9),
    )
    train, valid, test = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]

    def held(chosen: Tensor) -> Held:
        part = sequences.take(chosen)
        histories, targets = part.cut((part.lengths.double() * 0.8).long())
        return Held(users[chosen], histories, targets)

    return sequences.take(train), held(valid), held(test)


def _leave_one_out(
    sequences: Sequences, users: Tensor, options: SplitOptions
) -> tuple[Sequences, Held, Held]:
    """Weak generalisation: the last item of every user is the test, the one before validation."""
    long_enough = (sequences.lengths >= 4).nonzero()[:, 0]
    sequences, users = sequences.take(long_enough), users[long_enough]
    before, last = sequences.cut(sequences.lengths - 1)
    train, second = before.cut(before.lengths - 1)
    return train, Held(users, train, second), Held(users, before, last)
