"""Vectors of words, and of classes: the mean of their names' vectors, of norm 1."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.checkpoint import read_state_dict
from ...core.errors import CheckpointError, DataError
from ...core.progress import Progress

Lookup = Mapping[str, Tensor]


def class_vectors(
    lemmas: Sequence[Sequence[str]], words: Lookup, width: int, case_sensitive: bool = False
) -> Tensor:
    """Return unit vectors (N, C) of classes: the normalised mean over their names.

    A name that is no word is split at `_`, a part that is none at `-`, and what is found is
    averaged; a class of which nothing is found gets zeros (the official rule, which is
    case-sensitive; by default names are looked up in lower case).
    """
    rows = torch.zeros(len(lemmas), width)
    for place, names in enumerate(lemmas):
        folded = names if case_sensitive else [name.lower() for name in names]
        found = [v for name in folded if (v := _name_vector(name, words)) is not None]
        if found:
            rows[place] = torch.stack(found).mean(0)
    return F.normalize(rows, dim=1)


def _name_vector(name: str, words: Lookup) -> Tensor | None:
    if name in words:
        return words[name]
    parts: list[Tensor] = []
    for part in name.split("_"):
        if part in words:
            parts.append(words[part])
        else:
            parts += [words[piece] for piece in part.split("-") if piece in words]
    return torch.stack(parts).mean(0) if parts else None


def needed_words(lemmas: Iterable[Iterable[str]], case_sensitive: bool) -> set[str]:
    """Return all words that `class_vectors` may look up."""
    names = {n if case_sensitive else n.lower() for group in lemmas for n in group}
    parts = {part for name in names for part in name.split("_")}
    return names | parts | {piece for part in parts for piece in part.split("-")}


def read_words(path: Path, needed: Collection[str], progress: Progress) -> dict[str, Tensor]:
    """Return the vectors (C,) of those `needed` words that a file has.

    Text: a word and its numbers per line, with or without word2vec's first line, gzipped or not.
    `.npy` and `.safetensors`: a table, with the words in a file of the same name that ends in
    .txt or .txt.gz. Raises `DataError` that names the line.
    """
    if path.suffix in (".npy", ".safetensors"):
        table, words = _table(path), _words_beside(path)
        if table.dim() != 2 or len(table) != len(words):
            raise DataError(
                f"{path} has the shape {tuple(table.shape)}, its word list {len(words)} words"
            )
        return {w: row.float() for w, row in zip(words, table, strict=True) if w in needed}
    with progress.task(f"reading {path.name}") as task:
        found: dict[str, Tensor] = {}
        for number, line in enumerate(_lines(path), 1):
            _take(line, number, path, needed, found)
            if number % 10_000 == 0:
                task.advance(10_000)
    if not found:
        raise DataError(f"{path} has none of the words needed", "is it a file of word vectors?")
    return found


def _take(
    line: str, number: int, path: Path, needed: Collection[str], found: dict[str, Tensor]
) -> None:
    word, *cells = line.rstrip().split(" ")
    if number == 1 and len(cells) == 1:  # word2vec: how many words, how many numbers
        return
    if word not in needed:
        return
    try:
        values = np.array(cells, dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{path} line {number}: not numbers behind '{word}'") from error
    width = len(next(iter(found.values()))) if found else len(values)
    if len(values) != width or width == 0 or not np.isfinite(values).all():
        raise DataError(
            f"{path} line {number}: {len(values)} finite numbers expected to be {width}",
            "every line needs a word and as many numbers as the first",
        )
    found[word] = torch.from_numpy(values)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for line in stream:
                yield line.decode("utf-8", errors="replace")
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}", "check --semantic") from error


def _table(path: Path) -> Tensor:
    if path.suffix == ".npy":
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"cannot read {path}: {error}", "check --semantic") from error
    try:
        tensors = read_state_dict(path)
    except CheckpointError as error:
        raise DataError(error.message, error.hint) from error
    if len(tensors) != 1:
        raise DataError(f"{path} holds {len(tensors)} tensors, not one table of vectors")
    return next(iter(tensors.values()))


def _words_beside(path: Path) -> list[str]:
    places = [path.with_suffix(ending) for ending in (".txt", ".txt.gz")]
    present = next((place for place in places if place.exists()), None)
    if present is None:
        raise DataError(f"{path} has no word list", f"write {places[0].name}, a word a line")
    return [line.rstrip("\r\n") for line in _lines(present)]
