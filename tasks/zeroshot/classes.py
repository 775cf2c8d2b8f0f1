"""Which classes are meant: lists of names or ids, senses told apart, ImageNet's own splits."""

from __future__ import annotations

import difflib
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from ...core.errors import DataError
from .taxonomy import Taxonomy, fold, is_wnid

SPLITS = ("2-hops", "3-hops", "all")
_UNKNOWN_SHARE = 0.05  # of ids, from which another version of WordNet is suspected


@dataclass(frozen=True)
class Chosen:
    """Classes that were asked for: what the user calls them, and their places in a taxonomy."""

    labels: tuple[str, ...]
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.places)


@cache
def imagenet() -> dict[str, list[str]]:
    """Return wnids: "train_1k" in the classifiers' order, the splits, "structure_nodes"."""
    data = (files(__package__) / "weights" / "imagenet.json.gz").read_bytes()
    return json.loads(gzip.decompress(data))


def read_classes(path: Path, taxonomy: Taxonomy) -> Chosen:
    """Return the classes of a list: a name, an id, or name<TAB>id per line.

    Raises `DataError` for names with several senses (they are listed), for unknown ones (with
    similar spellings), and for ids of another WordNet.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "check --classes") from error
    entries = [
        (f"{path} line {number}", line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not entries:
        raise DataError(f"{path} names no class", "write one class a line")
    return _find_all(entries, taxonomy, str(path))


def split_classes(text: str, taxonomy: Taxonomy) -> Chosen:
    """Return the classes of a text such as "okapi,n02084071", as `read_classes` does."""
    entries = [("--among", part.strip()) for part in text.split(",") if part.strip()]
    if not entries:
        raise DataError("--among names no class", "write them as A,B,C")
    return _find_all(entries, taxonomy, "--among")


def split_of(name: str, taxonomy: Taxonomy) -> Chosen:
    """Return the classes of one of ImageNet's splits that the taxonomy holds."""
    places = tuple(taxonomy.index[w] for w in imagenet()[name] if w in taxonomy.index)
    if not places:
        raise DataError(f"--classes {name}: the model knows none of these classes")
    return Chosen(tuple(taxonomy.title(place) for place in places), places)


def candidates(source: str, taxonomy: Taxonomy) -> Chosen:
    """Return the classes of a split of ImageNet, or of a list in a file."""
    if source in SPLITS:
        return split_of(source, taxonomy)
    return read_classes(Path(source), taxonomy)


def _find_all(entries: Sequence[tuple[str, str]], taxonomy: Taxonomy, source: str) -> Chosen:
    _check_ids([text.split("\t")[-1] for _, text in entries], taxonomy, source)
    found: dict[int, str] = {}
    for where, text in entries:
        label, _, name = text.rpartition("\t")
        place = find_class(name.strip(), taxonomy, where)
        found.setdefault(place, label.strip() or name.strip())
    labels = tuple(
        taxonomy.title(place) if is_wnid(label) else label for place, label in found.items()
    )
    return Chosen(labels, tuple(found))


def _check_ids(names: Sequence[str], taxonomy: Taxonomy, source: str) -> None:
    ids = [name for name in names if is_wnid(name)]
    unknown = [name for name in ids if name not in taxonomy.index]
    if len(ids) >= 20 and len(unknown) > _UNKNOWN_SHARE * len(ids):
        raise DataError(
            f"{source}: {len(unknown)} of {len(ids)} ids are unknown, the first is {unknown[0]}",
            "they look like offsets of another WordNet; ImageNet's ids are those of WordNet 3.0",
        )


def find_class(name: str, taxonomy: Taxonomy, where: str = "") -> int:
    """Return the place of the class that `name` means: an id, or a name with one sense.

    Raises `DataError`, which `where` begins: with the senses, or with similar names.
    """
    if name in taxonomy.index:
        return taxonomy.index[name]
    prefix = f"{where}: " if where else ""
    places = taxonomy.names.get(fold(name), [])
    if len(places) == 1:
        return places[0]
    if places:
        senses = "; ".join(_sense(place, taxonomy) for place in places[:8])
        raise DataError(
            f"{prefix}'{name}' has {len(places)} senses: {senses}", "write the id of one of them"
        )
    close = difflib.get_close_matches(fold(name), taxonomy.names, 3, 0.75)
    similar = f"similar: {', '.join(close)}" if close else "no name is similar"
    raise DataError(f"{prefix}'{name}' is not in the graph", f"{similar}; or retrain with it")


def _sense(place: int, taxonomy: Taxonomy) -> str:
    said = taxonomy.definition(place)
    return f"{taxonomy.ids[place]} ({said[:70]}{'...' if len(said) > 70 else ''})"
