"""Which videos there are and what is known of them: folders, tables, lists, split files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import DataError
from ...core.tables import collect, find_column, need_column, open_table, text
from ...core.video import find_videos, is_video

PATHS = ("path", "video", "file", "filename", "video_path", "name")
LABELS = ("label", "class", "action")
SHOWN = 5
_HMDB = re.compile(r"(.+)_test_split(\d)\.txt")
_HMDB_PARTS = {"0": "", "1": "train", "2": "test"}


@dataclass(frozen=True)
class VideoSet:
    """Videos, and for each what the columns of its list say; `names` are shown and written."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The column "label", where there is one."""
        return self.columns.get("label")

    def take(self, places: Sequence[int]) -> VideoSet:
        """Return the videos at `places`."""
        columns = {name: tuple(values[i] for i in places) for name, values in self.columns.items()}
        paths = tuple(self.paths[i] for i in places)
        return VideoSet(paths, tuple(self.names[i] for i in places), columns)


def open_set(path: Path, label_column: str | None = None) -> VideoSet:
    """Return the videos that `path` stands for, in a fixed order.

    A folder: all videos below it, labelled by the first sub-folder where all lie in one; or
    HMDB51's split files. Anything else: a table with a column of paths, or lines "path label"
    (Kinetics, UCF101), relative to the list or the folder above it. Raises `DataError` when
    there are none, or a path does not exist.
    """
    if path.is_dir():
        splits = sorted(item for item in path.glob("*_test_split1.txt"))
        return _hmdb(path, splits) if splits else _folder(path)
    if path.is_file() and is_video(path):
        return VideoSet((path,), (path.name,))
    return _list(path, label_column)


def _folder(folder: Path) -> VideoSet:
    paths = find_videos(folder)
    parts = [path.relative_to(folder).parts for path in paths]
    columns = {}
    if all(len(part) > 1 for part in parts):
        columns["label"] = tuple(part[0] for part in parts)
    return VideoSet(tuple(paths), tuple("/".join(part) for part in parts), columns)


def _hmdb(folder: Path, files: Sequence[Path]) -> VideoSet:
    rows: list[tuple[str, str, str]] = []
    for file in files:
        match = _HMDB.fullmatch(file.name)
        assert match is not None
        for number, line in enumerate(file.read_text().splitlines(), 1):
            name, _, code = line.strip().rpartition(" ")
            if code not in _HMDB_PARTS or not name:
                raise DataError(f"{file}: line {number} is not 'name.avi 0|1|2'", "see HMDB51")
            if _HMDB_PARTS[code]:
                rows.append((f"{match[1]}/{name.strip()}", match[1], _HMDB_PARTS[code]))
    names, labels, parts = zip(*rows, strict=True)
    return _located(folder / "x", names, {"label": labels, "split": parts})


def _list(path: Path, label_column: str | None) -> VideoSet:
    sheet = open_table(path, known={*PATHS, *LABELS})
    alone = len(sheet.columns) == 1 and sheet.columns[0].lower() not in PATHS
    if sheet.kind == "words" or alone:
        return _lines(path)
    if not sheet.header and sheet.kind == "csv":
        found = find_column(sheet, ("1",), None, ""), find_column(sheet, ("2",), None, "")
        wanted = {"path": found[0], "label": found[1]}
    else:
        wanted = {"path": need_column(sheet, "path", PATHS, None, "a header: path,label")}
        wanted["label"] = find_column(sheet, LABELS, label_column, "--label-column")
    others = {name: name for name in sheet.columns if name not in wanted.values()}
    chosen = others | {name: column for name, column in wanted.items() if column}
    frame = collect(sheet, [text(column).alias(name) for name, column in chosen.items()])
    for name in ("path", "label"):
        if name in frame.columns and frame[name].null_count():
            row = int(frame[name].is_null().arg_true()[0])
            raise DataError(f"{path}: line {sheet.line(row)} has no {name}")
    columns = {
        name: tuple(frame[name].fill_null("").to_list()) for name in frame.columns if name != "path"
    }
    return _located(path, frame["path"].to_list(), columns)


def _lines(path: Path) -> VideoSet:
    """Read "path label" or paths alone; a class folder in the path is a label too."""
    names, labels = [], []
    for line in path.read_text(errors="replace").splitlines():
        name, blank, last = line.strip().rpartition(" ")
        names.append(name if blank else last)
        folders = Path(names[-1]).parts
        labels.append(folders[-2] if len(folders) > 1 else last if blank else "")
    columns = {"label": tuple(labels)} if all(labels) else {}
    return _located(path, names, columns)


def _located(path: Path, names: Sequence[str], columns: Mapping[str, tuple[str, ...]]) -> VideoSet:
    """Find the files behind names, beside the list or in the folder above it."""
    roots = (path.parent, path.parent.parent)
    paths = [next((r / n for r in roots if (r / n).exists()), None) for n in names]
    missing = [name for name, found in zip(names, paths, strict=True) if found is None]
    if missing or not names:
        shown = ", ".join(missing[:SHOWN])
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} videos do not exist: {shown}",
            f"paths are relative to {path.parent} or the folder above it",
        )
    return VideoSet(tuple(p for p in paths if p is not None), tuple(names), dict(columns))


def class_numbers(labels: Sequence[str], where: str) -> tuple[list[int], list[str]]:
    """Return (number of each label, classes sorted). Raises `DataError` for a single class."""
    classes = sorted(set(labels), key=lambda name: (not name.isdigit(), name.zfill(12)))
    if len(classes) < 2:
        raise DataError(
            f"{where} has a single class: {classes[0] if classes else 'none'}",
            "two at least are needed to tell anything apart",
        )
    number = {name: i for i, name in enumerate(classes)}
    return [number[label] for label in labels], classes
