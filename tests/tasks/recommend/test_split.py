from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.tasks.recommend.config import ColumnOptions, SplitOptions
from mlkit.tasks.recommend.data import Log, read_log
from mlkit.tasks.recommend.split import Split, filter_rare, make_split, shuffled

from .helpers import by_name, read, small_log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return read_log(small_log(tmp_path), ColumnOptions())


def names(split: Split, sequence: torch.Tensor) -> list[str]:
    return [split.names[i] for i in sequence.tolist()]


def test_users_are_in_one_part_and_sequences_are_cut_at_four_fifths(log: Log) -> None:
    split = make_split(log, SplitOptions(min_count=1))
    order = list(range(200))
    random.Random(1230).shuffle(order)
    assert split.test.users.tolist() == order[180:]
    assert split.valid.users.tolist() == order[160:180]
    assert len(split.train) == 160
    every = by_name(log)
    for place, user in enumerate(split.test.users.tolist()):
        whole = every[log.users[user]]
        before = names(split, split.test.histories[place])
        after = names(split, split.test.targets[place])
        assert before + after == whole
        assert len(before) == int(len(whole) * 0.8)


def test_items_are_numbered_by_falling_training_counts(log: Log) -> None:
    for counts in ("train", "all"):
        split = make_split(log, SplitOptions(min_count=1, counts=counts))
        assert bool((split.counts[1:].diff() <= 0).all())
        parts = [split.train]
        if counts == "all":
            for held in (split.valid, split.test):
                parts += [held.histories, held.targets]
        found = sum(torch.bincount(p.items, minlength=len(split.names)) for p in parts)
        assert torch.equal(torch.as_tensor(found), split.counts)


def test_the_filter_is_one_pass_over_items_then_users(tmp_path: Path) -> None:
    rows = ["u1,a", "u1,a", "u1,b", "u2,a", "u2,b", "u2,c", "u3,b", "u3,c"]
    log = read(tmp_path, "user,item\n" + "\n".join(rows) + "\n")
    sequences, users = filter_rare(log, 3)
    # c has 2 and goes, then u2 and u3 go; a second pass would now take a and b as well.
    assert users.tolist() == [0]
    assert [log.items[i] for i in sequences[0].tolist()] == ["a", "a", "b"]
    with pytest.raises(DataError, match="no user has 4"):
        filter_rare(log, 4)


def test_leave_one_out_takes_the_last_two(log: Log) -> None:
    split = make_split(log, SplitOptions(min_count=1, protocol="leave-one-out"))
    every = by_name(log)
    for place in range(len(split.train)):
        whole = every[log.users[int(split.test.users[place])]]
        assert names(split, split.train[place]) == whole[:-2]
        assert names(split, split.valid.targets[place]) == whole[-2:-1]
        assert names(split, split.test.histories[place]) == whole[:-1]
        assert names(split, split.test.targets[place]) == whole[-1:]


def test_too_short_logs_say_so(tmp_path: Path) -> None:
    log = read(tmp_path, "user,item\nu1,a\nu1,b\nu2,a\n")
    with pytest.raises(DataError, match="no user has 5 interactions") as caught:
        make_split(log, SplitOptions())
    assert "--min-count" in caught.value.hint


def test_shuffled_is_pythons_shuffle() -> None:
    assert sorted(shuffled(50, 3).tolist()) == list(range(50))
    assert len(shuffled(0, 3)) == 0
