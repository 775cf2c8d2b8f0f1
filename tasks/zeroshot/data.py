"""Photos with classes: folders named by class, or a table; and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.inputs import read_input
from ...core.labelled import scan_classes
from ...core.media import batched
from ...core.progress import Progress
from ...core.runtime import Runtime
from ...core.tables import collect, need_column, open_table, text
from .backbone import Backbone
from .classes import find_class
from .taxonomy import Taxonomy

_CLASS_COLUMNS = ("wnid", "class", "label", "name")


@dataclass(frozen=True)
class Photos:
    """Image files and the node of each one's class."""

    paths: tuple[Path, ...]
    nodes: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, places: Sequence[int] | Tensor) -> Photos:
        """Return some of the photos."""
        index = torch.as_tensor(places, dtype=torch.int64)
        return Photos(tuple(self.paths[i] for i in index.tolist()), self.nodes[index])


def open_photos(path: Path, taxonomy: Taxonomy) -> Photos:
    """Return the photos below a folder of class folders, or in a table (columns file and wnid).

    Folders and cells are ids or names (AWA2's `+` is a blank). Raises `DataError` for classes
    that the graph lacks or that have several senses.
    """
    if path.is_dir():
        found = scan_classes(path)
        nodes = [find_class(name, taxonomy, f"folder {path / name}") for name in found.classes]
        return Photos(tuple(found.paths), torch.tensor([nodes[i] for i in found.labels]))
    sheet = open_table(path, ("file", *_CLASS_COLUMNS))
    file = need_column(sheet, "file", ("file", "path", "image"), None, "a header")
    label = need_column(sheet, "class", _CLASS_COLUMNS, None, "a header")
    rows = collect(sheet, [text(file).alias("file"), text(label).alias("label")]).rows()
    known: dict[str, int] = {}
    for number, (name, kind) in enumerate(rows):
        where = f"{path} line {sheet.line(number)}"
        if name is None or kind is None:
            raise DataError(f"{where}: an empty cell", "every row needs a file and a class")
        if kind not in known:
            known[kind] = find_class(kind, taxonomy, where)
    if not rows:
        raise DataError(f"{path} names no photos")
    paths = tuple(path.parent / name for name, _ in rows)
    return Photos(paths, torch.tensor([known[kind] for _, kind in rows]))


def read_features(
    paths: Sequence[Path],
    backbone: Backbone,
    runtime: Runtime,
    batch: int,
    progress: Progress,
    strict: bool = False,
) -> tuple[Tensor, list[int], dict[str, str]]:
    """Return features with a 1 behind (n, P), the places of photos read, and reasons of the rest.

    A photo that cannot be read is skipped with a warning; with `strict` it is an error.
    """
    spec = backbone.recipe.input
    backbone.features.to(runtime.device)
    found: list[Tensor] = [torch.empty(0, backbone.rows.shape[1])]
    kept: list[int] = []
    failures: dict[str, str] = {}
    with progress.task("looking at photos", len(paths)) as task:
        for places in batched(range(len(paths)), batch):
            inputs = []
            for place in places:
                try:
                    inputs.append(read_input(paths[place], spec))
                    kept.append(place)
                except DataError as error:
                    if strict:
                        raise
                    failures[str(paths[place])] = error.message
                    progress.warn(f"skipped: {error.message}")
            if inputs:
                found.append(backbone.extend(spec.normalise(torch.stack(inputs)), runtime))
            task.advance(len(places))
    return torch.cat(found), kept, failures
