"""Reading graphs: matrices, edge lists, DCRNN's pickles (restricted), and sensor places."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ...core import tables
from ...core.errors import DataError
from .graph import Graph, from_dense, gaussian_kernel, haversine, nearest, with_self_loops

Kind = Literal["auto", "distances", "weights"]
MAX_PICKLE = 2**30
NEAREST = 8  # neighbours of a sensor where only places are known
EDGE = ("from", "to", "source", "target", "distance", "cost", "weight", "dist")
PLACE = ("latitude", "longitude", "lat", "lon", "lng", "sensor_id", "id", "station", "name")


@dataclass(frozen=True)
class Matrix:
    """What a graph file says: numbers (N, N), inf or 0 where nothing is, and whose rows they are.

    `names` is None where the file has none; `listed` is True for an edge list, where pairs that
    are not there are inf.
    """

    values: Tensor
    names: tuple[str, ...] | None
    listed: bool = False


def read_graph(
    path: str | Path, names: Sequence[str], kind: Kind, say: Callable[[str], None]
) -> Graph:
    """Read the graph of the sensors `names`, self loops included.

    `say` gets remarks: direction, added loops. Raises `DataError` when sizes or ids do not fit,
    for negative or missing numbers, and for a pickle that holds more than arrays.
    """
    if Path(path).suffix.lower() in (".pkl", ".pickle"):
        ids, values = read_pickle(path)
        matrix = Matrix(values, ids)
    else:
        matrix = _read_table(path, names)
    values = _arranged(str(path), matrix, names)
    if bool((values < 0).any()):
        i, j = (int(k) for k in (values < 0).nonzero()[0])
        raise DataError(
            f"{path}: the entry from {names[i]} to {names[j]} is negative ({values[i, j]:g})",
            "distances and weights must be 0 or more",
        )
    finite = values[values.isfinite()]
    if kind == "auto":
        kind = "weights" if len(finite) == 0 or float(finite.max()) <= 1 else "distances"
    if kind == "distances":
        values = gaussian_kernel(values if matrix.listed else _roads(values))
    graph, added = with_self_loops(from_dense(values.where(values.isfinite(), 0)))
    dense = graph.dense()
    if not torch.allclose(dense, dense.T):
        say(f"{path}: the graph is directed; messages go from row to column")
    if added:
        say(f"{path}: {added} self loops of weight 1 were added")
    return graph


def _roads(distances: Tensor) -> Tensor:
    """In a matrix of distances a zero off the diagonal means that there is no road."""
    diagonal = torch.eye(len(distances), dtype=torch.bool)
    return distances.where((distances > 0) | diagonal, torch.inf)


def _arranged(path: str, matrix: Matrix, names: Sequence[str]) -> Tensor:
    """Return the numbers in the order of the sensors `names`."""
    values = matrix.values.double()
    if values.isnan().any():
        i, j = (int(k) for k in values.isnan().nonzero()[0])
        raise DataError(f"{path}: row {i + 1}, column {j + 1} holds no number")
    if matrix.names is not None and set(names) <= set(matrix.names):
        place = {name: i for i, name in enumerate(matrix.names)}
        order = torch.tensor([place[name] for name in names])
        return values[order][:, order]
    if len(values) != len(names):
        raise DataError(
            f"{path}: the graph has {len(values)} nodes, the data has {len(names)}",
            "give the graph of the same sensors",
        )
    plain = tuple(names) == tuple(str(i + 1) for i in range(len(names)))
    if matrix.names is None or plain:
        return values
    missing = [name for name in names if name not in matrix.names]
    raise DataError(
        f"{path} does not know {', '.join(missing[:5])}; it holds {', '.join(matrix.names[:5])}",
        "the ids of the graph must be those of the data",
    )


# --- tables ---


def _read_table(path: str | Path, names: Sequence[str]) -> Matrix:
    sheet = tables.open_table(path, EDGE)
    frame = tables.collect(sheet, [tables.text(column).alias(column) for column in sheet.columns])
    known = set(names)
    in_list = len(sheet.columns) == 3 and (
        len(frame) != 3 or bool(known & set(frame.to_series(0).drop_nulls()))
    )
    if in_list and not (len(names) == 3 and sheet.header and set(sheet.columns) == known):
        return _edge_list(sheet, frame, names)
    header: tuple[str, ...] | None = sheet.columns if sheet.header else None
    if header is None and tuple(map(str, frame.row(0))) == tuple(names):
        header, frame = tuple(names), frame.slice(1)
    if header is not None and len(frame) == len(frame.columns) - 1:  # a column of row names
        header, frame = header[1:], frame.drop(frame.columns[0])
    numbers = frame.select(pl.all().cast(pl.Float64, strict=False)).to_numpy()
    if numbers.shape[0] != numbers.shape[1]:
        raise DataError(
            f"{path}: {numbers.shape[0]} rows and {numbers.shape[1]} columns are no graph",
            "give a square matrix, or a list of from,to,distance",
        )
    return Matrix(torch.from_numpy(np.array(numbers)), header)


def _edge_list(sheet: tables.Sheet, frame: pl.DataFrame, names: Sequence[str]) -> Matrix:
    source, target, cost = (frame.to_series(i) for i in range(3))
    number = cost.cast(pl.Float64, strict=False)
    if number.null_count():
        row = int(number.is_null().arg_true()[0])
        raise DataError(
            f"{sheet.name}: line {sheet.line(row)} has '{cost[row]}' as a distance; "
            "a number was expected"
        )
    if bool((number < 0).any()):
        row = int((number < 0).arg_true()[0])
        raise DataError(
            f"{sheet.name}: line {sheet.line(row)} has the negative distance {number[row]:g}"
        )
    place = {name: i for i, name in enumerate(names)}
    pairs = [(place.get(str(a)), place.get(str(b))) for a, b in zip(source, target, strict=True)]
    values = torch.full((len(names), len(names)), torch.inf, dtype=torch.float64)
    inside = 0
    for (i, j), distance in zip(pairs, number, strict=True):
        if i is not None and j is not None:
            values[i, j] = distance
            inside += 1
    if inside == 0:
        raise DataError(
            f"{sheet.name} joins none of the sensors; it holds {', '.join(map(str, source[:5]))}, "
            f"the data {', '.join(names[:5])}",
            "the ids of the graph must be those of the data",
        )
    return Matrix(values.fill_diagonal_(0), tuple(names), listed=True)


# --- DCRNN's pickles ---


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can make lists, dicts, texts, numbers and numpy arrays, nothing else."""

    allowed = frozenset({"_reconstruct", "scalar", "ndarray", "dtype", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        """Return one of a handful of harmless functions. Raises `UnpicklingError` otherwise."""
        numpy = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if name not in self.allowed or not (numpy or module == "_codecs"):
            raise pickle.UnpicklingError(f"refused: contains {module}.{name}")
        if module == "_codecs":
            import codecs

            return codecs.encode
        if name in ("ndarray", "dtype"):
            return getattr(np, name)
        return getattr(importlib.import_module("numpy._core.multiarray"), name)


def read_pickle(path: str | Path) -> tuple[tuple[str, ...], Tensor]:
    """Return ids and matrix (N, N) of a pickle [ids, {id: index}, matrix] as DCRNN ships it.

    Raises `DataError` for a file with anything but lists, texts and arrays in it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_PICKLE:
            raise DataError(f"{path} is larger than {MAX_PICKLE >> 30} GiB")
        loaded = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        ids, _, matrix = loaded
        values = np.asarray(matrix, np.float32)
        names = tuple(_text(name) for name in ids)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Exception as error:  # a damaged pickle fails in many ways
        refused = str(error).startswith("refused")
        what = str(error) if refused else f"is not a graph of DCRNN ({error})"
        raise DataError(f"{path} {what}", "give the graph as CSV") from error
    if values.shape != (len(names), len(names)):
        raise DataError(f"{path}: {len(names)} ids, but a matrix {values.shape}")
    return names, torch.from_numpy(values)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- places ---


def read_places(path: str | Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return latitudes and longitudes (N,) of the sensors, in degrees.

    Columns are found by name; without a header they are id, latitude, longitude. Raises
    `DataError` for a sensor without a place.
    """
    sheet = tables.open_table(path, PLACE)
    guesses: tuple[tuple[str, ...], ...] = (
        ("sensor_id", "id", "station", "name", "node"),
        ("latitude", "lat"),
        ("longitude", "lon", "lng"),
    )
    if not sheet.header:
        guesses = (("1",), ("2",), ("3",))
    columns = [
        tables.need_column(sheet, what, names_, None, "a header: id, latitude, longitude")
        for what, names_ in zip(("id", "latitude", "longitude"), guesses, strict=True)
    ]
    frame = tables.collect(sheet, [tables.text(column).alias(column) for column in columns])
    numbers = frame.select(pl.col(columns[1:]).cast(pl.Float64, strict=False)).to_numpy()
    found = dict(zip(frame[columns[0]], numbers, strict=True))
    missing = [name for name in names if name not in found or np.isnan(found[name]).any()]
    if missing:
        raise DataError(f"{path} has no place for {', '.join(missing[:5])}", "add the rows")
    places = torch.from_numpy(np.stack([found[name] for name in names]))
    if bool((places[:, 0].abs() > 90).any() or (places[:, 1].abs() > 360).any()):
        raise DataError(f"{path}: latitudes or longitudes are out of range")
    return places[:, 0], places[:, 1]


def graph_of_places(latitude: Tensor, longitude: Tensor) -> Graph:
    """Return the graph of DCRNN's kernel on distances as the crow flies, the nearest eight."""
    kernel = gaussian_kernel(haversine(latitude, longitude))
    return from_dense(nearest(kernel, NEAREST + 1))  # and the node itself
