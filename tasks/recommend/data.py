"""Logs of interactions and tables of items, as flat arrays: no Python list per user."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ...core import tables
from ...core.errors import DataError, UsageError
from ...core.tables import Sheet
from .config import ColumnOptions

USER = ("user_id", "userId", "user", "uid", "reviewerID", "customer_id", "visitorid")
ITEM = ("item_id", "movieId", "item", "iid", "sku", "asin", "product_id", "itemid", "track_id")
TIME = ("timestamp", "ts", "time", "unixReviewTime", "date", "datetime", "created_at")
CATEGORY = ("category", "categories", "cate", "cat", "genres", "genre", "category_id", "cate_id")
TITLE = ("title", "name", "item_name", "product_name", "movie_title")
_KNOWN = frozenset(name.lower() for name in (*USER, *ITEM, *TIME, *CATEGORY, *TITLE))


@dataclass(frozen=True)
class Sequences:
    """Item numbers of all users behind one another; user u has items[starts[u]:starts[u + 1]].

    `items` is int32 (N,), `starts` int64 (users + 1,).
    """

    items: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of interactions per user, int64 (users,)."""
        return self.starts.diff()

    def __getitem__(self, user: int) -> Tensor:
        return self.items[int(self.starts[user]) : int(self.starts[user + 1])]

    def take(self, users: Tensor) -> Sequences:
        """Return the sequences of some users (int64), in their order."""
        lengths = self.lengths[users]
        places = _ranges(self.starts[:-1][users], lengths)
        return Sequences(self.items[places], starts_of(lengths))

    def keep(self, wanted: Tensor) -> Sequences:
        """Return the sequences without the interactions where `wanted` (bool, (N,)) is False."""
        kept = torch.cat((torch.zeros(1, dtype=torch.int64), wanted.cumsum(0)))
        return Sequences(self.items[wanted], kept[self.starts])

    def cut(self, lengths: Tensor) -> tuple[Sequences, Sequences]:
        """Split each sequence after its first `lengths` (int64, (users,)) interactions."""
        first = _ranges(self.starts[:-1], lengths)
        rest = _ranges(self.starts[:-1] + lengths, self.lengths - lengths)
        return (
            Sequences(self.items[first], starts_of(lengths)),
            Sequences(self.items[rest], starts_of(self.lengths - lengths)),
        )

    def last(self, width: int, users: Tensor | None = None) -> Tensor:
        """Return the last `width` items of users as rows, oldest first, left-aligned, 0 behind.

        int64 (users, width).
        """
        users = torch.arange(len(self)) if users is None else users
        ends = self.starts[1:][users]
        return window(self.items, ends, self.lengths[users].clamp_max(width), width)


def starts_of(lengths: Tensor) -> Tensor:
    """Return where each of consecutive runs of these lengths starts, and where the last ends."""
    return torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return start, start + 1, ... of all runs behind one another."""
    offsets = starts - starts_of(lengths)[:-1]
    return torch.arange(int(lengths.sum())) + offsets.repeat_interleave(lengths)


def window(items: Tensor, ends: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Gather the `lengths` items before `ends` into rows (n, width), left-aligned, 0 behind."""
    if len(items) == 0:
        return torch.zeros(len(ends), width, dtype=torch.int64)
    place = torch.arange(width)
    inside = place < lengths[:, None]
    index = (ends - lengths)[:, None] + place
    return items[index.where(inside, 0)].long().where(inside, 0)


def from_lists(lists: Sequence[Sequence[int]]) -> Sequences:
    """Return sequences from Python lists (of tests and of `--history`)."""
    flat = [item for sequence in lists for item in sequence]
    lengths = torch.tensor([len(sequence) for sequence in lists], dtype=torch.int64)
    return Sequences(torch.tensor(flat, dtype=torch.int32), starts_of(lengths))


@dataclass(frozen=True)
class Log:
    """Who touched what, in order. `users` and `items` hold names; sequences hold their numbers.

    Numbers are places in `items`, from 0, in order of first appearance.
    """

    name: str
    users: pl.Series
    items: pl.Series
    sequences: Sequences

    def user(self, name: str) -> int:
        """Return the number of a user. Raises `DataError` that names similar ones."""
        found = self.users.index_of(name)
        if found is None:
            close = closest(name, self.users)
            raise DataError(
                f"{self.name}: no user '{name}'", f"similar: {', '.join(close)}" if close else ""
            )
        return found


def closest(name: str, names: pl.Series) -> list[str]:
    """Return up to three names that look like `name`, among a hundred thousand at most."""
    alike = names.filter(names.str.starts_with(name[:1])).head(100_000)
    return difflib.get_close_matches(name, alike.to_list(), 3, 0.5) or names.head(3).to_list()


def read_log(path: str | Path, columns: ColumnOptions) -> Log:
    """Read a log of any known format in a stream and sort it by user and time.

    Equal times keep the order of the file; without times the file's order counts. Raises
    `DataError` for a file that is no log, naming the line.
    """
    sheet = tables.open_table(path, _KNOWN)
    if sheet.kind == "words":
        sheet = _words(sheet)
    where = _filter(sheet, columns.where)
    user, item, time = _log_columns(sheet, columns)
    # Names become 32-bit codes while they are read: the text of a column is never all in memory.
    wanted = [
        tables.text(user).cast(pl.Categorical(pl.Categories.random())).alias("user"),
        tables.text(item).cast(pl.Categorical(pl.Categories.random())).alias("item"),
    ]
    wanted += [tables.times(sheet, time).alias("time")] if time else []
    frame = tables.collect(sheet, wanted, where)
    if frame.is_empty():
        raise DataError(f"{sheet.name} has no interactions", "is it the right file?")
    for name, column in (("user", user), ("item", item), ("time", time)):
        wrong = tables.first_null(sheet, frame[name], column, where) if column else None
        if wrong:
            hint = "times may be numbers, or ISO dates" if name == "time" else "mend the line"
            raise DataError(f"{sheet.name}: {wrong}; a {name} was expected", hint)
    return _log(sheet.name, frame)


def _words(sheet: Sheet) -> Sheet:
    """Turn lines of `user item item ...` (or of one pair each) into rows."""
    words = pl.col("line").str.strip_chars().str.split(" ").list.filter(pl.element() != "")
    pairs = sheet.frame.select(words.alias("w")).select(
        pl.col("w").list.first().alias("user"), pl.col("w").list.slice(1).alias("item")
    )
    frame = pairs.filter(pl.col("user").is_not_null()).explode("item")
    return Sheet(sheet.name, frame, ("user", "item"), False, "sequences")


def _log_columns(sheet: Sheet, options: ColumnOptions) -> tuple[str, str, str | None]:
    named = sheet.header or sheet.kind in ("json", "parquet", "sequences")
    users, items, times = (USER, ITEM, TIME) if named else (("1",), ("2",), _third(sheet))
    return (
        tables.need_column(sheet, "user", users, options.user_col, "--user-col"),
        tables.need_column(sheet, "item", items, options.item_col, "--item-col"),
        tables.find_column(sheet, times, options.time_col, "--time-col"),
    )


def _third(sheet: Sheet) -> tuple[str, ...]:
    """Where the time stands without a header: MovieLens has the rating before it."""
    return ("4", "3") if sheet.kind == "double-colon" else ("3",)


def _filter(sheet: Sheet, where: str | None) -> pl.Expr | None:
    if where is None:
        return None
    column, _, value = where.partition("=")
    if column not in sheet.columns:
        raise UsageError(
            f"--where {where}: {sheet.name} has no column '{column}'",
            f"it has: {', '.join(sheet.columns[:12])}",
        )
    return pl.col(column).str.strip_chars() == value


def _log(name: str, frame: pl.DataFrame) -> Log:
    users, user = _number(frame["user"])
    items, item = _number(frame["item"])
    if "time" in frame.columns or bool((user[1:] < user[:-1]).any()):
        order = _order(user, frame["time"].to_numpy() if "time" in frame.columns else None)
        user, item = user[order], item[order]
    counts = torch.from_numpy(np.bincount(user, minlength=len(users)))
    return Log(name, users, items, Sequences(torch.from_numpy(item), starts_of(counts)))


def _number(names: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Number the values of a categorical column by first appearance: (names, int32 numbers)."""
    distinct = names.unique(maintain_order=True)
    codes = distinct.to_physical().to_numpy()
    rank = np.zeros(int(codes.max()) + 1, dtype=np.int32)
    rank[codes] = np.arange(len(codes), dtype=np.int32)
    return distinct.cast(pl.String), rank[names.to_physical().to_numpy()]


def _order(user: np.ndarray, time: np.ndarray | None) -> np.ndarray:
    """Return the order by user, then time, then place in the file."""
    if time is None:
        return np.argsort(user, kind="stable")
    same = user[1:] == user[:-1]
    if bool((user[1:] >= user[:-1]).all() and (time[1:] >= time[:-1])[same].all()):
        return np.arange(len(user))
    keys = pl.DataFrame({"user": user, "time": time})
    return keys.select(pl.arg_sort_by("user", "time", maintain_order=True)).to_series().to_numpy()


@dataclass(frozen=True)
class Items:
    """What is known of items, by number 1..n (0 is padding): names, titles, labels, the rest.

    `labels[i]` is what stands in the category column, "" where nothing does.
    """

    names: pl.Series
    titles: pl.Series | None = None
    labels: pl.Series | None = None
    extra: pl.DataFrame = field(default_factory=pl.DataFrame)

    def __len__(self) -> int:
        return len(self.names) - 1

    def numbers(self, names: pl.Series) -> Tensor:
        """Return the numbers of items by name, int64; 0 for those that are not known."""
        known = pl.DataFrame({"name": self.names[1:]}).with_row_index("number", offset=1)
        found = pl.DataFrame({"name": names}).join(known, "name", "left", maintain_order="left")
        return torch.from_numpy(found["number"].fill_null(0).to_numpy().astype(np.int64))

    def categories(self, mode: str) -> Tensor:
        """Return the category of each item, int64 (n + 1,); an item without one is its own.

        `mode` is "first" or "last" of several labels between `|`. Categories count from 0, the
        items without one behind them.
        """
        assert self.labels is not None
        part = self.labels.str.split("|").list.get(0 if mode == "first" else -1).str.strip_chars()
        codes = part.rank("dense").cast(pl.Int64).to_numpy()
        alone = (part == "").to_numpy()
        codes = np.where(alone, codes.max() + 1 + np.arange(len(codes)), codes)
        return torch.from_numpy(np.unique(codes, return_inverse=True)[1].reshape(-1))

    def label_sets(self) -> Tensor:
        """Return which labels each item has, bool (n + 1, labels); without one its own label."""
        assert self.labels is not None
        parts = pl.DataFrame({"label": self.labels}).with_row_index("item")
        parts = parts.with_columns(pl.col("label").str.split("|")).explode("label")
        parts = parts.with_columns(pl.col("label").str.strip_chars()).filter(pl.col("label") != "")
        sets = torch.zeros(len(self.names), parts["label"].n_unique(), dtype=torch.bool)
        columns = parts["label"].rank("dense").cast(pl.Int64).to_numpy() - 1
        sets[parts["item"].to_numpy().astype(np.int64), columns] = True
        return sets


def read_items(path: str | Path, names: pl.Series, columns: ColumnOptions) -> Items:
    """Read a table of items and line it up with `names` (place 0 is padding).

    Raises `DataError` when it describes none of the items.
    """
    sheet = tables.open_table(path, _KNOWN)
    named = sheet.header or sheet.kind in ("json", "parquet")
    guesses = ITEM if named else ("1",)
    item = tables.need_column(sheet, "item", guesses, columns.item_col, "--item-col")
    labels, titles = (CATEGORY, TITLE) if named else _headless_items(sheet)
    category = tables.find_column(sheet, labels, columns.category_col, "--category-col")
    title = tables.find_column(sheet, titles, columns.title_col, "--title-col")
    frame = tables.collect(sheet, [tables.text(column).alias(column) for column in sheet.columns])
    frame = frame.unique(subset=item, keep="first", maintain_order=True)
    wanted = pl.DataFrame({item: names})
    found = wanted.join(frame, on=item, how="left", maintain_order="left")
    if wanted[1:].join(frame, on=item, how="semi").is_empty():
        raise DataError(
            f"{path} describes none of the {len(names) - 1} items of the log",
            f"its column {item} holds for instance '{frame[item][0]}', the log '{names[1]}'",
        )
    return Items(
        names,
        found[title].fill_null("") if title else None,
        _plain_labels(found[category]) if category else None,
        found.drop(item, *(column for column in (title, category) if column)),
    )


def _headless_items(sheet: Sheet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of category and title: ComiRec's item,category, MovieLens's item::title::genres."""
    return (("3", "2"), ("2",)) if sheet.kind == "double-colon" else (("2",), ())


def _plain_labels(labels: pl.Series) -> pl.Series:
    # MovieLens writes "(no genres listed)" where there are none.
    return labels.fill_null("").replace("(no genres listed)", "")
