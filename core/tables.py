"""Reading tables with validation: CSV, TSV, `::`, JSON lines and parquet, gzipped or not.

Tables stay lazy polars frames whose columns are text, so that a method reads only the columns
it needs, in a stream, and decides itself what a number is. Each of these formats is told by its
content, not by its ending (parquet excepted).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from .errors import DataError, UsageError

HEAD_BYTES = 1 << 16
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")  # RecBole's headers


@dataclass(frozen=True)
class Sheet:
    """A table that was opened: its name, its columns as text, and how its rows are counted.

    `header` is False where the file has none; the columns are then called "1", "2", ... A file
    of words between blanks (`kind` "words") has the one column "line".
    """

    name: str
    frame: pl.LazyFrame
    columns: tuple[str, ...]
    header: bool
    kind: str

    def line(self, row: int) -> int:
        """Return the line of the file, from 1, that holds row 0, 1, ..."""
        return row + 1 + self.header


def open_table(path: str | Path, known: Collection[str] = ()) -> Sheet:
    """Open a table without reading it. `-` is standard input.

    The first line is a header when one of its cells is in `known` (lower case) or none is a
    number. Raises `DataError` when the file is missing, empty, or has a column twice.
    """
    name = "standard input" if str(path) == "-" else str(path)
    source: Any = sys.stdin.buffer.read() if str(path) == "-" else Path(path)
    if isinstance(source, Path) and source.suffix == ".parquet" and source.is_file():
        return _open_parquet(source)
    lines = _head(source, name)
    first = lines[0]
    if first.startswith("{"):
        return _open_json(source, name, lines)
    if "::" in first:
        return _open_double_colons(source, name, first)
    separator = next((mark for mark in "\t,;|" if mark in first), None)
    if separator is None and " " in first.strip():
        return Sheet(name, pl.scan_lines(source, name="line"), ("line",), False, "words")
    cells = [cell.strip().strip('"') for cell in first.split(separator or ",")]
    typed = [_TYPED.fullmatch(cell) for cell in cells]
    cells = [match[1] if match else cell for match, cell in zip(typed, cells, strict=True)]
    header = any(typed) or _is_header(cells, known)
    _refuse_twins(cells if header else [], name)
    columns = cells if header else [str(i + 1) for i in range(len(cells))]
    frame = pl.scan_csv(
        source,
        separator=separator or ",",
        has_header=header,
        infer_schema=False,
        new_columns=columns,
    )
    return Sheet(name, frame, tuple(columns), header, "csv")


def _head(source: Any, name: str) -> list[str]:
    """Return the first lines of a file, without a byte-order mark."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            magic = stream.read(2)
            stream.seek(0)
            opened: Any = gzip.GzipFile(fileobj=stream) if magic == b"\x1f\x8b" else stream
            data = opened.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder", "give one file") from error
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {name}: {error}") from error
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    if not lines or not lines[0].strip():
        raise DataError(f"{name} is empty" if not data.strip() else f"{name}: line 1 is empty")
    if b"\0" in data:
        raise DataError(f"{name} is not a text table", "give CSV, TSV, JSON lines or parquet")
    return lines


def _is_header(cells: Sequence[str], known: Collection[str]) -> bool:
    if any(cell.lower() in known for cell in cells):
        return True
    return not any(_NUMBER.fullmatch(cell) for cell in cells)


def _refuse_twins(columns: Sequence[str], name: str) -> None:
    twins = sorted({column for column in columns if list(columns).count(column) > 1})
    if twins:
        raise DataError(f"{name}: column '{twins[0]}' stands twice in the header", "rename one")


def _open_parquet(path: Path) -> Sheet:
    frame = pl.scan_parquet(path)
    try:
        columns = tuple(frame.collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file ({_reason(error)})") from error
    plain = [name for name, kind in frame.collect_schema().items() if not kind.is_nested()]
    return Sheet(str(path), frame.select(pl.col(plain).cast(pl.String)), columns, False, "parquet")


def _open_json(source: Any, name: str, lines: Sequence[str]) -> Sheet:
    try:
        keys = [key for key, value in json.loads(lines[0]).items() if not isinstance(value, dict)]
    except ValueError as error:
        raise DataError(
            f"{name}: line 1 is not JSON ({error})", "every line must be one JSON object"
        ) from error
    paths = {key: f"$['{key}']" for key in keys if "'" not in key}
    columns = [pl.col("line").str.json_path_match(path).alias(key) for key, path in paths.items()]
    frame = pl.scan_lines(source, name="line").select(columns)
    return Sheet(name, frame, tuple(paths), False, "json")


def _open_double_colons(source: Any, name: str, first: str) -> Sheet:
    columns = [str(i + 1) for i in range(first.count("::") + 1)]
    parts = pl.col("line").str.splitn("::", len(columns)).struct.rename_fields(columns)
    frame = pl.scan_lines(source, name="line").select(parts.alias("parts")).unnest("parts")
    return Sheet(name, frame, tuple(columns), False, "double-colon")


def find_column(sheet: Sheet, guesses: Sequence[str], wanted: str | None, flag: str) -> str | None:
    """Return the column the user named with `flag`, else the first of `guesses` that is there.

    Upper and lower case are the same in a guess. Raises `UsageError` when the column that was
    named is not there; returns None when no guess is.
    """
    if wanted is not None:
        if wanted not in sheet.columns:
            raise UsageError(
                f"{flag} {wanted}: {sheet.name} has no such column",
                f"it has: {', '.join(sheet.columns[:12])}",
            )
        return wanted
    lower = {column.lower(): column for column in reversed(sheet.columns)}
    return next((lower[guess.lower()] for guess in guesses if guess.lower() in lower), None)


def need_column(
    sheet: Sheet, what: str, guesses: Sequence[str], wanted: str | None, flag: str
) -> str:
    """Do what `find_column` does; a column that cannot be guessed is a `DataError`."""
    found = find_column(sheet, guesses, wanted, flag)
    if found is None:
        raise DataError(
            f"{sheet.name}: no {what} column; found {', '.join(sheet.columns[:12])}",
            f"name it with {flag}",
        )
    return found


def collect(sheet: Sheet, columns: Sequence[pl.Expr], where: pl.Expr | None = None) -> pl.DataFrame:
    """Read the columns in a stream. Raises `DataError` when the rows do not fit the header."""
    frame = sheet.frame if where is None else sheet.frame.filter(where)
    try:
        return frame.select(columns).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        hint = "save it as UTF-8" if "utf-8" in str(error) else "check its quotes and separators"
        raise DataError(f"{sheet.name} is not a well-formed table ({_reason(error)})", hint) from (
            error
        )


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120]


def text(column: str) -> pl.Expr:
    """Return the expression of a column without the blanks around its cells; empty is null."""
    stripped = pl.col(column).str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def times(sheet: Sheet, column: str) -> pl.Expr:
    """Return the expression that turns a column of times into numbers in the same order.

    Integers and decimals stay numbers; ISO dates and times become microseconds. What the column
    holds is told by its first thousand rows. A cell that is none of these becomes null.
    """
    head = collect(Sheet(sheet.name, sheet.frame.head(1000), (), False, ""), [text(column)])
    sample = head.to_series().drop_nulls()
    decimal = text(column).cast(pl.Float64, strict=False)
    kinds: list[pl.Expr] = [
        text(column).cast(pl.Int64, strict=False),
        pl.when(decimal.is_finite()).then(decimal),
        _iso(column),
    ]
    return max(kinds, key=lambda kind: sample.to_frame().select(kind).to_series().count())


def _iso(column: str) -> pl.Expr:
    """Dates, or dates and times with an optional fraction; a zone is taken into account."""
    plain = text(column).str.replace("T", " ", literal=True).str.replace(r"(Z|\+00:?00)$", "")
    zoned = text(column).str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC")
    patterns = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    options = [plain.str.to_datetime(p, strict=False, time_unit="us") for p in patterns]
    date = plain.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return pl.coalesce(zoned.dt.replace_time_zone(None), *options, date).cast(pl.Int64)


def first_null(
    sheet: Sheet, values: pl.Series, column: str, where: pl.Expr | None = None
) -> str | None:
    """Name the line and the cell behind the first null in `values`; None when there is none.

    `values` was collected from `column` with the same `where`.
    """
    if values.null_count() == 0:
        return None
    place = int(values.is_null().arg_true()[0])
    rows = sheet.frame.with_row_index("row")
    rows = rows if where is None else rows.filter(where)
    row, cell = rows.select("row", column).slice(place, 1).collect().row(0)
    shown = "nothing" if cell is None or not cell.strip() else f"'{cell}'"
    return f"line {sheet.line(row)} has {shown} in column {column}"
