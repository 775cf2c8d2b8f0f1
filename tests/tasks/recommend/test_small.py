from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.recommend import small
from mlkit.tasks.recommend.config import ColumnOptions
from mlkit.tasks.recommend.data import Log, read_log

from .helpers import read, small_log

RUNTIME = start(RunOptions(device="cpu"))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    options = small.OPTIONS.model_copy(update={"steps": 4, "save_every": 2})
    monkeypatch.setattr(small, "OPTIONS", options)
    return read_log(small_log(tmp_path), ColumnOptions())


def test_the_cache_is_named_by_all_it_depends_on(tmp_path: Path, log: Log) -> None:
    path, plain = tmp_path / "log.csv", ColumnOptions()
    items = tmp_path / "items.csv"
    names = {
        small.cache_path(path, log, seed, columns, table)
        for seed in (0, 1)
        for columns in (plain, ColumnOptions(where="user_id=u1"))
        for table in (None, items)
    }
    assert len(names) == 8
    assert all(name.parent == tmp_path for name in names)
    before = small.cache_path(path, log, 0, plain, items)
    items.write_text(items.read_text() + "b999,x,y\n")
    assert small.cache_path(path, log, 0, plain, items) != before


def test_the_second_call_opens_the_first_ones_model(tmp_path: Path, log: Log) -> None:
    path, progress = tmp_path / "log.csv", Silent()
    first = small.small_model(path, log, ColumnOptions(), None, RUNTIME, progress)
    assert len(progress.warnings) == 1
    assert "to be kept as" in progress.warnings[0]
    second = small.small_model(path, log, ColumnOptions(), None, RUNTIME, progress)
    assert len(progress.warnings) == 1
    assert second.name.startswith("log.csv.")
    assert first.model.item_vectors.equal(second.model.item_vectors)


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.core.errors import DataError

    def refuse(*arguments: object) -> None:
        raise DataError("cannot write there")

    monkeypatch.setattr(small, "save_model", refuse)
    progress = Silent()
    path = tmp_path / "log.csv"
    small.small_model(path, log, ColumnOptions(), None, RUNTIME, progress)
    assert "not kept: cannot write there" in progress.warnings[-1]


def test_long_histories_get_the_papers_readout(tmp_path: Path, log: Log) -> None:
    assert small._choose(log)[1].readout == "max"
    rows = "".join(f"u{u},{i}\n" for u in range(5) for i in range(40))
    options, loss = small._choose(read(tmp_path, "user,item\n" + rows, "long.csv"))
    assert (options.max_history, loss.readout) == (50, "hard")
