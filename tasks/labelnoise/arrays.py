"""Probabilities, features and labels that another model made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.arrays import read_array
from ...core.errors import DataError
from ...core.labelled import LABEL_NAMES
from ...core.tables import collect, find_column, first_null, open_table, text
from .config import LabelnoiseConfig
from .signals import blocks

Array = NDArray[Any]
SUM_TOLERANCE = 1e-2


def open_arrays(config: LabelnoiseConfig) -> tuple[Array, Array, Array, list[str]]:
    """Return probabilities (N, K), features (N, d), labels (N,) and the names of the classes.

    .npy files stay memory maps. Raises `DataError` for numbers that are not finite, rows that
    are no probabilities, labels outside 0..K-1, and lengths that differ.
    """
    assert config.probs is not None
    assert config.features is not None
    assert config.labels is not None
    probs, features = _matrix(config.probs), _matrix(config.features)
    labels, names = _labels(config.labels, probs.shape[1])
    lengths = {"--probs": len(probs), "--features": len(features), "--labels": len(labels)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DataError(f"the arrays have different lengths: {told}")
    if config.logits:
        probs = _softmax(probs)
    _check_probabilities(probs, config.probs)
    _check_finite(features, config.features)
    return probs, features, labels, names


def _matrix(path: Path) -> Array:
    """Open a matrix; a plain .npy is mapped into memory, for it may be larger than that."""
    if path.suffix == ".npy" and path.is_file():
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a readable array ({error})") from error
    else:
        array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise DataError(f"{path} holds {array.dtype} {array.shape}, not numbers (N, columns)")
    return array


def _labels(path: Path, classes: int) -> tuple[Array, list[str]]:
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet"):
        return _from_table(path, classes)
    labels = read_array(path)
    if labels.ndim != 1 or (labels.dtype.kind == "f" and (labels % 1).any()):
        raise DataError(f"{path} holds {labels.dtype} {labels.shape}, not class numbers (N,)")
    return _in_range(labels.astype(np.int64), classes, path), [str(k) for k in range(classes)]


def _from_table(path: Path, classes: int) -> tuple[Array, list[str]]:
    """Read the column label (the only one, where there is only one): numbers, or K names."""
    sheet = open_table(path, LABEL_NAMES)
    column = find_column(sheet, LABEL_NAMES, None, "")
    if column is None and len(sheet.columns) > 1:
        raise DataError(f"{path}: no label column; found {', '.join(sheet.columns[:12])}")
    column = column or sheet.columns[0]
    series = collect(sheet, [text(column).alias("label")])["label"]
    if (place := first_null(sheet, series, column)) is not None:
        raise DataError(f"{path}: {place}")
    values = series.to_list()
    if all(value.isdigit() for value in values):
        numbers = np.array([int(value) for value in values], dtype=np.int64)
        return _in_range(numbers, classes, path), [str(k) for k in range(classes)]
    names = sorted(set(values))
    if len(names) != classes:
        raise DataError(f"{path} has {len(names)} class names, --probs {classes} columns")
    index = {name: k for k, name in enumerate(names)}
    return np.array([index[value] for value in values], dtype=np.int64), names


def _in_range(labels: Array, classes: int, path: Path) -> Array:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{path}: label {labels[wrong[0]]} in row {wrong[0]} is not in 0..{classes - 1}",
            "labels count from 0, like the columns of --probs",
        )
    return labels


def _softmax(logits: Array) -> Array:
    """Return probabilities as float32; this one needs the room of the whole matrix."""
    probs = np.empty(logits.shape, dtype=np.float32)
    for part in blocks(logits):
        block = np.asarray(logits[part], dtype=np.float64)
        powers = np.exp(block - block.max(1, keepdims=True))
        probs[part] = powers / powers.sum(1, keepdims=True)
    return probs


def _check_probabilities(probs: Array, path: Path) -> None:
    if probs.shape[1] < 2:
        raise DataError(f"{path} has {probs.shape[1]} column", "two classes or more are needed")
    _check_finite(probs, path)
    for part in blocks(probs):
        block = np.asarray(probs[part], dtype=np.float64)
        wrong = (np.abs(block.sum(1) - 1) > SUM_TOLERANCE) | (block < -1e-6).any(1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{path}: row {part.start + row} is no distribution (sum {block[row].sum():.4g})",
                "pass --logits if these are logits",
            )


def _check_finite(array: Array, path: Path) -> None:
    for part in blocks(array):
        finite = np.isfinite(array[part]).all(1)
        if not finite.all():
            row = part.start + int(np.flatnonzero(~finite)[0])
            raise DataError(f"{path}: row {row} holds NaN or infinite values", "mend it first")
