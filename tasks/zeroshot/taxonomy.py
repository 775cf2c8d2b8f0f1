"""Taxonomies: classes with names, definitions and parents; WordNet, or the user's own.

A class may have several parents; there is no cycle.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from .closure import Array, find_cycle

WORDNET = "wordnet"
MAX_BYTES = 1 << 30
_COLUMNS = ["wnid", "lemmas", "hypernyms"]
_SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Taxonomy:
    """Classes and their parents.

    `ids` name the classes uniquely (wnids, or the user's names), `lemmas` are their names with
    `_` for blanks, `edges` (E, 2) int64 are pairs (child, parent) of places in `ids`.
    """

    ids: tuple[str, ...]
    lemmas: tuple[tuple[str, ...], ...]
    edges: Array
    definitions: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """The place of every id."""
        return {name: i for i, name in enumerate(self.ids)}

    @cached_property
    def names(self) -> dict[str, list[int]]:
        """The places of every lemma, in lower case with `_`."""
        found: dict[str, list[int]] = {}
        for place, lemmas in enumerate(self.lemmas):
            for lemma in dict.fromkeys(fold(lemma) for lemma in lemmas):
                found.setdefault(lemma, []).append(place)
        return found

    def title(self, place: int) -> str:
        """Return the first name of a class, for people."""
        return self.lemmas[place][0].replace("_", " ")

    def definition(self, place: int) -> str:
        """Return the definition of a class, or nothing."""
        return self.definitions[place] if self.definitions else ""

    def text(self, place: int) -> str:
        """Return what a text encoder reads of a class: its names and its definition."""
        names = ", ".join(lemma.replace("_", " ") for lemma in self.lemmas[place])
        said = self.definition(place)
        return f"{names}: {said}" if said else names

    def subset(self, places: Sequence[int] | Array) -> Taxonomy:
        """Return the classes at `places`, in that order, with the edges among them."""
        chosen = np.asarray(places, dtype=np.int64)
        new = np.full(len(self), -1)
        new[chosen] = np.arange(len(chosen))
        edges = new[self.edges]
        edges = edges[(edges >= 0).all(1)]
        # In the order of the children, so that the result depends on `places` alone.
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        return Taxonomy(
            tuple(self.ids[i] for i in chosen),
            tuple(self.lemmas[i] for i in chosen),
            edges,
            tuple(self.definitions[i] for i in chosen) if self.definitions else (),
        )


def fold(name: str) -> str:
    """Return a name as it is looked up: lower case, `_` for blanks and `+`."""
    return re.sub(r"[\s+_]+", "_", name.strip().lower())


def open_taxonomy(source: str) -> Taxonomy:
    """Return the embedded WordNet 3.0 (`wordnet`), or the taxonomy in a file.

    Known: tables with the columns wnid, lemmas, hypernyms (and definition); two columns
    `child<TAB>parent`; lines `child: parent`; JSON `{"child": "parent" or ["parents"]}` or a
    nested tree. All may be gzipped. Raises `DataError` with the line that is wrong, and for
    cycles.
    """
    if source == WORDNET:
        return _parse(_embedded_wordnet(), "WordNet")
    return _parse(_read(Path(source)), source)


def _embedded_wordnet() -> str:
    data = (files(__package__) / "weights" / "wordnet.tsv.gz").read_bytes()
    return gzip.decompress(data).decode()


def _read(path: Path) -> str:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "check --graph") from error


def _parse(text: str, name: str) -> Taxonomy:
    if not text.strip():
        raise DataError(f"{name} is empty", "give lines child<TAB>parent")
    if text.lstrip().startswith("{"):
        return _from_pairs(_json_pairs(text, name), name)
    lines = text.splitlines()
    header = lines[0].lower().split("\t")
    if header[:3] == _COLUMNS:
        return _from_table(lines, header, name)
    return _from_pairs(_line_pairs(lines, name), name)


def _from_table(lines: Sequence[str], header: Sequence[str], name: str) -> Taxonomy:
    place = header.index("definition") if "definition" in header else None
    rows = [line.split("\t") for line in lines[1:] if line]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not row[0] or not row[1]:
            raise DataError(f"{name} line {number}: {len(row)} cells, the header has {len(header)}")
    ids = tuple(row[0] for row in rows)
    index = {wnid: i for i, wnid in enumerate(ids)}
    pairs = [
        (row[0], parent) for row in rows for parent in re.split("[|,]", row[2]) if parent in index
    ]
    edges = np.array([(index[a], index[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2)
    definitions = tuple(row[place] for row in rows) if place is not None else ()
    lemmas = tuple(tuple(row[1].split("|")) for row in rows)
    return _checked(Taxonomy(ids, lemmas, edges, definitions), name)


def _line_pairs(lines: Iterable[str], name: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        cells = line.strip("\r\n").split("\t") if "\t" in line else text.split(": ", 1)
        cells = [cell.strip() for cell in cells]
        if len(cells) < 2:
            cells = [cells[0].removesuffix(":"), ""]  # a root
        if not cells[0]:
            raise DataError(f"{name} line {number}: no class before the parent", "child<TAB>parent")
        pairs.append((cells[0], cells[1]))
    return pairs


def _json_pairs(text: str, name: str) -> list[tuple[str, str]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name} is not valid JSON: {error}", "check --graph") from error
    pairs: list[tuple[str, str]] = []

    def walk(tree: Mapping[str, object], above: str) -> None:
        for child, value in tree.items():
            if isinstance(value, Mapping):  # a tree from the root down
                pairs.append((child, above))
                walk(value, child)
                continue
            for parent in value if isinstance(value, list) else [value or ""]:
                if not isinstance(parent, str):
                    raise DataError(f"{name}: the parents of '{child}' are not names")
                pairs.append((child, parent))
            if above:
                pairs.append((child, above))

    walk(document, "")
    return pairs


def _from_pairs(pairs: Iterable[tuple[str, str]], name: str) -> Taxonomy:
    kept = list(dict.fromkeys(pairs))
    ids = tuple(dict.fromkeys(part for pair in kept for part in pair if part))
    index = {part: i for i, part in enumerate(ids)}
    edges = np.array([(index[a], index[b]) for a, b in kept if b], dtype=np.int64).reshape(-1, 2)
    return _checked(Taxonomy(ids, tuple((part.replace(" ", "_"),) for part in ids), edges), name)


def _checked(taxonomy: Taxonomy, name: str) -> Taxonomy:
    if len(taxonomy.index) < len(taxonomy):
        twice = next(i for i in taxonomy.ids if taxonomy.ids.count(i) > 1)
        raise DataError(f"{name}: class '{twice}' stands twice", "merge its lines")
    cycle = find_cycle(len(taxonomy), taxonomy.edges)
    if cycle:
        path = " -> ".join(taxonomy.ids[i] for i in [*cycle, cycle[0]][:6])
        raise DataError(f"{name} has a cycle: {path}", "remove one of these edges")
    return taxonomy


def is_wnid(text: str) -> bool:
    """Return True for WordNet ids such as n02084071."""
    return _SYNSET.fullmatch(text) is not None
