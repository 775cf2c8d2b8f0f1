"""Images with a class each, as files: class folders, and tables of paths and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError
from .media import find_images
from .tables import collect, first_null, need_column, open_table, text

PATH_NAMES = ("path", "file", "filename", "image")
LABEL_NAMES = ("label", "given_label", "class", "y")
TABLES = (".csv", ".tsv", ".jsonl", ".txt", ".parquet")


@dataclass(frozen=True)
class LabelledPaths:
    """Image files with a class number each; `classes[labels[i]]` is the class of `paths[i]`."""

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[str]


def scan_classes(folder: str | Path) -> LabelledPaths:
    """Return the images of a folder that has one sub-folder per class, classes sorted by name.

    Raises `DataError` when there are no sub-folders with images.
    """
    folder = Path(folder)
    paths = find_images(folder)
    names = [path.relative_to(folder).parts[0] for path in paths]
    if any(path.parent == folder for path in paths):
        raise DataError(
            f"{folder} holds images outside of class folders",
            "put the images of each class into a sub-folder named after the class",
        )
    classes = sorted(set(names))
    index = {name: i for i, name in enumerate(classes)}
    return LabelledPaths(paths, [index[name] for name in names], classes)


def list_labelled(source: Path) -> LabelledPaths:
    """Return the files and labels of a class folder, or of a table with a path and a label.

    Paths in a table are relative to the table. Raises `DataError` for a source that is neither, an
    empty class folder, a table without these columns, and files that do not exist (the first
    five are named).
    """
    if source.is_dir():
        _refuse_empty_folders(source)
        return scan_classes(source)
    if source.suffix.lower() in TABLES:
        return _from_table(source)
    what = "is neither a folder nor a table" if source.exists() else "does not exist"
    raise DataError(f"{source} {what}", "give a folder of class folders, or a CSV")


def _refuse_empty_folders(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not any(path.iterdir()):
            raise DataError(f"{path} is an empty class folder", "remove it, or fill it")


def _from_table(source: Path) -> LabelledPaths:
    sheet = open_table(source, (*PATH_NAMES, *LABEL_NAMES))
    columns = [
        need_column(sheet, "path", PATH_NAMES, None, "a header 'path,label'"),
        need_column(sheet, "label", LABEL_NAMES, None, "a header 'path,label'"),
    ]
    frame = collect(sheet, [text(columns[0]).alias("path"), text(columns[1]).alias("label")])
    for name, column in zip(("path", "label"), columns, strict=True):
        if (place := first_null(sheet, frame[name], column)) is not None:
            raise DataError(f"{source}: {place}")
    if len(frame) == 0:
        raise DataError(f"{source} has no rows")
    paths = [source.parent / path for path in frame["path"].to_list()]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} files do not exist: {', '.join(missing[:5])}",
            f"paths are relative to {source.parent}",
        )
    labels = frame["label"].to_list()
    classes = sorted(set(labels))
    index = {name: i for i, name in enumerate(classes)}
    return LabelledPaths(paths, [index[name] for name in labels], classes)
