"""Reading series of sensors: CSV and its kin, parquet, HDF5 of pandas, NPZ and NPY."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ...core import tables
from ...core.arrays import HDF5, MAX_BYTES
from ...core.errors import DataError, MissingExtraError
from .config import SeriesOptions

TIME = ("timestamp", "time", "date", "datetime", "ts", "")
DAY = 86_400_000_000  # microseconds
UNKNOWN = ("nan", "na", "null", "none", "-")  # cells that say: not measured


@dataclass(frozen=True)
class Series:
    """Series of N sensors over S regular steps.

    `values` is float32 (N, S), NaN where nothing was measured. `start` and `step` are
    microseconds since 1970 and between rows, or None and None where the file has no times;
    `day_steps` is then the number of steps per day, and the first row is midnight.
    """

    name: str
    names: tuple[str, ...]
    values: Tensor
    start: int | None = None
    step: int | None = None
    day_steps: int = 288

    @property
    def slots(self) -> Tensor:
        """The number of each step's time of day, int64 (S,), from 0."""
        steps = torch.arange(self.values.shape[1])
        if self.start is None or self.step is None:
            return steps % self.day_steps
        return (self.start + steps * self.step) % DAY // min(self.step, DAY)

    @property
    def times(self) -> Tensor:
        """The time of day of each step in [0, 1), float32 (S,)."""
        if self.start is None or self.step is None:
            return self.slots / self.day_steps
        steps = torch.arange(self.values.shape[1])
        return ((self.start + steps * self.step) % DAY / DAY).float()

    def label(self, step: int) -> str:
        """Name a step, which may lie behind the end: its time in ISO form, or its number."""
        if self.start is None or self.step is None:
            return str(step)
        moment = np.datetime64(self.start + step * self.step, "us")
        return str(moment.astype("datetime64[s]"))

    def extended(self, steps: int) -> Series:
        """Return the series with steps behind the end, not measured."""
        values = torch.nn.functional.pad(self.values, (0, steps), value=torch.nan)
        return Series(self.name, self.names, values, self.start, self.step, self.day_steps)

    def take(self, nodes: Sequence[int]) -> Series:
        """Return the series of some sensors."""
        names = tuple(self.names[i] for i in nodes)
        return Series(
            self.name, names, self.values[list(nodes)], self.start, self.step, self.day_steps
        )


def read_series(path: str | Path, options: SeriesOptions) -> Series:
    """Read series of any known format; `-` is a table on standard input.

    Raises `DataError` that names the line and the column of what is wrong: a cell that is no
    number, times that do not grow, a sensor without any value.
    """
    suffix = Path(path).suffix.lower()
    if suffix in HDF5:
        found = _read_hdf5(Path(path))
    elif suffix in (".npz", ".npy"):
        found = _read_numpy(Path(path), options)
    else:
        found = _read_table(path, options)
    return _checked(found, options)


def _checked(series: Series, options: SeriesOptions) -> Series:
    values = series.values
    if options.missing == "0":
        values = values.where(values != 0, torch.nan)
    if options.missing == "none" and bool(values.isnan().any()):
        node, step = (int(i) for i in values.isnan().nonzero()[0])
        raise DataError(
            f"{series.name}: sensor {series.names[node]} has no value at step {step + 1}",
            "leave --missing none away: gaps are then masked",
        )
    if bool(values.isinf().any()):
        node, step = (int(i) for i in values.isinf().nonzero()[0])
        raise DataError(
            f"{series.name}: sensor {series.names[node]} is infinite at step {step + 1}"
        )
    empty = values.isnan().all(1).nonzero()[:, 0].tolist()
    if empty:
        some = ", ".join(series.names[i] for i in empty[:5])
        raise DataError(f"{series.name}: no value at all for {some}", "leave these sensors out")
    twins = sorted({name for name in series.names if series.names.count(name) > 1})
    if twins:
        raise DataError(f"{series.name}: sensor '{twins[0]}' stands twice", "rename one")
    return Series(series.name, series.names, values, series.start, series.step, series.day_steps)


def constant_sensors(series: Series) -> list[str]:
    """Return the names of sensors that never change: nothing can be learnt from them."""
    low = series.values.nan_to_num(torch.inf).amin(1)
    high = series.values.nan_to_num(-torch.inf).amax(1)
    return [series.names[i] for i in (low == high).nonzero()[:, 0].tolist()]


# --- tables ---


def _read_table(path: str | Path, options: SeriesOptions) -> Series:
    sheet = tables.open_table(path, TIME)
    frame = tables.collect(sheet, [tables.text(column).alias(column) for column in sheet.columns])
    names, first_line = list(sheet.columns), 1 + sheet.header
    if not sheet.header and sheet.kind == "csv" and _ids_above(frame):
        names = [str(cell) for cell in frame.row(0)]
        frame, first_line = frame.slice(1), 2
    if frame.is_empty():
        raise DataError(f"{sheet.name} has no rows", "is it the right file?")
    if options.transpose:
        return _transposed(sheet.name, frame, first_line, options)
    start = step = None
    row_of = None
    if _is_time(names[0], frame.to_series(0)):
        moments = _moments(sheet.name, frame.to_series(0), names[0], first_line)
        start, step, row_of = _regular(sheet.name, moments, first_line)
        names, frame = names[1:], frame.drop(frame.columns[0])
    if not names:
        raise DataError(f"{sheet.name} has times, but no series", "give one column per sensor")
    values = _numbers(sheet.name, frame, names, first_line)
    if row_of is not None and step is not None:
        grid = np.full((row_of[-1] + 1, values.shape[1]), np.nan, np.float32)
        grid[row_of] = values
        values = grid
    tensor = torch.from_numpy(np.ascontiguousarray(values.T))
    return Series(sheet.name, tuple(names), tensor, start, step, options.day_steps or 288)


def _ids_above(frame: pl.DataFrame) -> bool:
    """Tell whether the first row of numbers holds ids: whole, distinct, unlike what follows."""
    cells = [str(cell) for cell in frame.row(0)]
    if len(set(cells)) < len(cells) or not all(cell.isdigit() for cell in cells):
        return False
    below = frame.slice(1, 1000).cast(pl.Float64, strict=False).to_numpy()
    if below.size == 0:
        return False
    fractions = bool(np.nansum(np.abs(below - np.round(below))) > 0)
    return fractions or min(map(int, cells)) > np.nanmax(np.abs(below))


def _is_time(name: str, column: pl.Series) -> bool:
    if name.strip().lower() in TIME:
        return True
    first = column.drop_nulls().head(1)
    return len(first) > 0 and first.cast(pl.Float64, strict=False).null_count() > 0


def _moments(name: str, column: pl.Series, title: str, first_line: int) -> np.ndarray:
    """Return times as int64 microseconds; plain numbers are epochs in s, ms, us or ns."""
    sheet = tables.Sheet(name, pl.LazyFrame({"time": column}), ("time",), False, "csv")
    found = tables.collect(sheet, [tables.times(sheet, "time").alias("time")])["time"]
    if found.null_count():
        place = int(found.is_null().arg_true()[0])
        raise DataError(
            f"{name}: line {place + first_line} has '{column[place]}' in column "
            f"{title or '1'}; a time was expected",
            "times may be ISO dates or epochs",
        )
    moments = found.to_numpy()
    if column.head(1).cast(pl.Float64, strict=False).null_count():
        return moments.astype(np.int64)  # ISO texts are microseconds already
    size = float(np.abs(moments).max())
    factor = next((f for limit, f in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0)) if size < limit), 1e-3)
    return (moments * factor).round().astype(np.int64)


def _regular(name: str, moments: np.ndarray, first_line: int) -> tuple[int, int, np.ndarray]:
    """Return start, step and the grid row of each time; rows that are left out become gaps."""
    if len(moments) < 2:
        raise DataError(f"{name} has one row", "is it the right file?")
    differences = np.diff(moments)
    if (differences <= 0).any():
        line = int(np.argmax(differences <= 0)) + 1 + first_line
        raise DataError(
            f"{name}: the time in line {line} is not later than the one before", "sort the rows"
        )
    sizes, counts = np.unique(differences, return_counts=True)
    step = int(sizes[counts.argmax()])
    if (differences % step).any():
        line = int(np.argmax(differences % step != 0)) + 1 + first_line
        raise DataError(
            f"{name}: the time in line {line} is off the grid of {step / 60e6:g} minutes",
            "bring all rows to one time step; missing rows may be left out",
        )
    rows = (moments - moments[0]) // step
    if rows[-1] > 100 * len(moments) + 1_000_000:
        raise DataError(f"{name}: its times have a gap of {int(differences.max() / 60e6)} minutes")
    return int(moments[0]), step, rows


def _numbers(name: str, frame: pl.DataFrame, names: Sequence[str], first_line: int) -> np.ndarray:
    """Return the cells as float32 (rows, columns), NaN where a cell is empty or says so."""
    lower = [pl.col(column).str.to_lowercase().is_in(UNKNOWN) for column in frame.columns]
    clean = frame.with_columns(
        pl.when(~said).then(pl.col(column)).alias(column)
        for said, column in zip(lower, frame.columns, strict=True)
    )
    numbers = clean.select(pl.all().cast(pl.Float64, strict=False))
    lost = numbers.null_count().row(0)
    for place, (count, column) in enumerate(zip(lost, frame.columns, strict=True)):
        if count > clean[column].null_count():
            wrong = (numbers[column].is_null() & clean[column].is_not_null()).arg_true()[0]
            raise DataError(
                f"{name}: line {wrong + first_line} has '{frame[column][wrong]}' in column "
                f"{names[place]}; a number was expected",
                "leave a cell empty where nothing was measured",
            )
    return numbers.fill_null(np.nan).to_numpy().astype(np.float32)


def _transposed(name: str, frame: pl.DataFrame, first_line: int, options: SeriesOptions) -> Series:
    first = frame.to_series(0)
    named = first.cast(pl.Float64, strict=False).null_count() > 0
    names = [str(cell) for cell in first] if named else [str(i + 1) for i in range(len(frame))]
    rest = frame.drop(frame.columns[0]) if named else frame
    values = _numbers(name, rest, rest.columns, first_line)
    return Series(name, tuple(names), torch.from_numpy(values), day_steps=options.day_steps or 288)


# --- arrays ---


def _read_hdf5(path: Path) -> Series:
    """Read what pandas' fixed format holds (metr-la.h5, pems-bay.h5): axes and one block."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtraError("h5py", "hdf5") from error
    try:
        with h5py.File(path, "r") as file:
            group = next((g for g in file.values() if _is_frame(g)), None)
            if group is None:
                raise DataError(f"{path} holds no table of pandas", "write it with df.to_hdf")
            names = [_plain(name) for name in group["axis0"][()]]
            moments = np.asarray(group["axis1"][()], np.int64) // 1000
            values = np.asarray(group["block0_values"][()], np.float32)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a readable HDF5 file ({error})") from error
    if values.shape != (len(moments), len(names)):
        raise DataError(
            f"{path}: {len(names)} columns and {len(moments)} rows, but values {values.shape}",
            "all columns must have one type",
        )
    start, step, rows = _regular(str(path), moments, 1)
    grid = np.full((rows[-1] + 1, len(names)), np.nan, np.float32)
    grid[rows] = values
    return Series(str(path), tuple(names), torch.from_numpy(grid.T.copy()), start, step)


def _is_frame(item: Any) -> bool:
    return hasattr(item, "keys") and "block0_values" in item


def _plain(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_numpy(path: Path, options: SeriesOptions) -> Series:
    """Read `data` (T, N) or (T, N, F), or DCRNN's windows `x`, `y` (n, T, N, F); feature 0."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
        loaded = np.load(path, allow_pickle=False)
        arrays = {"data": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable array ({error})") from error
    except Exception as error:  # a broken zip raises zipfile's own
        raise DataError(f"{path} is not a readable array ({error})") from error
    day = options.day_steps
    if "data" in arrays:
        values = arrays["data"]
    elif {"x", "y"} <= arrays.keys():
        values, day = _join_windows(path, arrays["x"], arrays["y"], day)
    else:
        raise DataError(f"{path} holds {', '.join(arrays)}", "expected 'data', or 'x' and 'y'")
    if values.ndim == 3:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise DataError(
            f"{path}: shape {values.shape} of {values.dtype} is no series",
            "expected steps x sensors (x features)",
        )
    values = (values if options.transpose else values.T).astype(np.float32)
    names = tuple(str(i + 1) for i in range(len(values)))
    return Series(str(path), names, torch.from_numpy(values.copy()), day_steps=day or 288)


def _join_windows(path: Path, x: np.ndarray, y: np.ndarray, day: int) -> tuple[np.ndarray, int]:
    """Return the series (S, N) that windows one step apart were cut from."""
    if x.ndim != 4 or y.ndim != 4 or len(x) != len(y) or len(x) == 0:
        raise DataError(f"{path}: x {x.shape} and y {y.shape} are no windows (n, steps, N, F)")
    x, y = x[..., 0], y[..., 0]
    if len(x) > 1 and not np.array_equal(x[1:, :-1], x[:-1, 1:]):
        raise DataError(f"{path}: its windows are not one step apart", "give the whole series")
    return np.concatenate((x[0], x[1:, -1], y[-1])), day
