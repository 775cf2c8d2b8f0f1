"""Files of recommendations and vectors, written in one step or block by block."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from ...core.files import replacing


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def save_names(path: Path, names: pl.Series) -> None:
    """Write one name per line (quoted as in CSV where it must be)."""
    with replacing(path) as temporary:
        pl.DataFrame({"name": names}).write_csv(temporary, include_header=False)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends well."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file


def append(file: IO[bytes], frame: pl.DataFrame, suffix: str, first: bool) -> None:
    """Write rows as JSON lines or as CSV, the latter with a header at `first`."""
    if suffix == ".jsonl":
        frame.write_ndjson(file)
    else:
        frame.write_csv(file, include_header=first)


def as_bytes(frames: Sequence[pl.DataFrame]) -> bytes:
    """Return frames as one CSV."""
    buffer = io.BytesIO()
    for i, frame in enumerate(frames):
        frame.write_csv(buffer, include_header=i == 0)
    return buffer.getvalue()
