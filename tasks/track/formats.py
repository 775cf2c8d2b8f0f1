"""Boxes in files: MOTChallenge, KITTI and Scalabel in; MOTChallenge results out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError
from .boxes import Array

PERSON = 1
DISTRACTORS = (2, 7, 8, 12)  # MOT16+: on a vehicle, static, distractor, reflection
KITTI_CLASSES = {"Pedestrian": 1, "Person": 1, "Cyclist": 2, "Car": 3, "Van": 4, "Truck": 5,
                 "Tram": 6, "Misc": 7}  # fmt: skip
MAX_ROWS = 20_000_000


@dataclass(frozen=True)
class Rows:
    """Boxes of one sequence, sorted by frame.

    `frame` and `identity` are int64 (N,), frames count from 1, identity -1 means none; `boxes`
    float64 (N, 4) in pixels (left, top, width, height) from the image's corner (0, 0);
    `score`, `visibility` float64 (N,); `category` int64 (N,); `valid` bool (N,): False marks
    what evaluation ignores.
    """

    frame: Array
    identity: Array
    boxes: Array
    score: Array
    category: Array
    visibility: Array
    valid: Array

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, chosen: Any) -> Rows:
        return Rows(**{name: values[chosen] for name, values in vars(self).items()})

    def at(self, frame: int) -> Rows:
        """Return the rows of one frame."""
        begin, end = np.searchsorted(self.frame, (frame, frame + 1))
        return self[begin:end]

    def counted(self, category: int | None = PERSON) -> Rows:
        """Return the rows that evaluation counts, of one category (None: of all)."""
        keep = self.valid if category is None else self.valid & (self.category == category)
        return self[keep]


def make_rows(
    frame: Any,
    identity: Any,
    boxes: Any,
    score: Any = 1.0,
    category: Any = PERSON,
    visibility: Any = 1.0,
    valid: Any = True,
) -> Rows:
    """Return rows sorted by frame (stable); scalars are repeated."""
    frame = np.asarray(frame, dtype=np.int64).reshape(-1)
    count = len(frame)

    def column(values: Any, kind: Any) -> Array:
        return np.array(np.broadcast_to(np.asarray(values, dtype=kind), (count,)))

    rows = Rows(
        frame,
        column(identity, np.int64),
        np.asarray(boxes, dtype=np.float64).reshape(count, 4),
        column(score, np.float64),
        column(category, np.int64),
        column(visibility, np.float64),
        column(valid, bool),
    )
    return rows[np.argsort(frame, kind="stable")]


def read_truth(path: str | Path) -> Rows:
    """Read ground truth: MOTChallenge `gt.txt`, or KITTI tracking labels.

    MOT16+ (9 columns): conf 0 and distractor classes are not valid. MOT15 (10 columns): conf 0 is
    not valid and every row is a person. Raises `DataError` with the line number.
    """
    path = Path(path)
    lines = _lines(path)
    if lines and "," not in lines[0][1]:
        return _read_kitti(path, lines)
    table = _numbers(path, lines, (6, 7, 8, 9, 10))
    width = table.shape[1]
    confidence = table[:, 6] if width > 6 else np.ones(len(table))
    new = width == 9
    category = table[:, 7] if new else np.full(len(table), PERSON)
    valid = (confidence != 0) & ~np.isin(category, DISTRACTORS)
    visibility = table[:, 8] if new else np.ones(len(table))
    rows = _rows(path, table, lines, 1.0, category, visibility, valid)
    refuse_duplicates(rows[rows.valid], str(path))
    return rows


def read_detections(path: str | Path) -> Rows:
    """Read `det.txt` (identities are ignored). Raises `DataError` with the line number."""
    path = Path(path)
    lines = _lines(path)
    table = _numbers(path, lines, (6, 7, 8, 9, 10))
    score = table[:, 6] if table.shape[1] > 6 else np.ones(len(table))
    rows = _rows(path, table, lines, score)
    rows.identity[:] = -1
    return rows


def read_results(path: str | Path) -> Rows:
    """Read a result file of any tracker; a class in column 8 is accepted and dropped.

    Raises `DataError` with the line number, also where an identity occurs twice in a frame.
    """
    path = Path(path)
    lines = _lines(path)
    table = _numbers(path, lines, (6, 7, 8, 9, 10))
    score = table[:, 6] if table.shape[1] > 6 else np.ones(len(table))
    rows = _rows(path, table, lines, score)
    refuse_duplicates(rows, str(path))
    return rows


def refuse_duplicates(rows: Rows, name: str) -> None:
    """Raise `DataError` when an identity occurs twice in a frame."""
    order = np.lexsort((rows.identity, rows.frame))
    frame, identity = rows.frame[order], rows.identity[order]
    twice = np.flatnonzero((frame[1:] == frame[:-1]) & (identity[1:] == identity[:-1]))
    if len(twice):
        place = twice[0]
        raise DataError(
            f"{name}: identity {identity[place]} occurs twice in frame {frame[place]}",
            "every identity may have one box per frame",
        )


def write_results(rows: Rows) -> bytes:
    """Return a MOTChallenge result file: `frame,id,left,top,width,height,score,-1,-1,-1`."""
    text = [
        f"{f},{i},{b[0] + 1:.2f},{b[1] + 1:.2f},{b[2]:.2f},{b[3]:.2f},{s:.4f},-1,-1,-1\n"
        for f, i, b, s in zip(rows.frame, rows.identity, rows.boxes, rows.score, strict=True)
    ]
    return "".join(text).encode()


def write_truth(rows: Rows) -> bytes:
    """Return a MOT16 ground-truth file: `frame,id,l,t,w,h,conf,class,visibility`."""
    columns = (rows.frame, rows.identity, rows.boxes, rows.valid, rows.category, rows.visibility)
    text = [
        f"{f},{i},{b[0] + 1:.2f},{b[1] + 1:.2f},{b[2]:.2f},{b[3]:.2f},{int(v)},{c},{s:.3f}\n"
        for f, i, b, v, c, s in zip(*columns, strict=True)
    ]
    return "".join(text).encode()


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "is it a text file?") from error
    found = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(found) > MAX_ROWS:
        raise DataError(f"{path} has {len(found):,} rows, more than {MAX_ROWS:,}")
    return found


def _numbers(path: Path, lines: Sequence[tuple[int, str]], widths: Sequence[int]) -> Array:
    """Return a table (rows, columns) of numbers between commas; all rows as wide as the first."""
    table = []
    width = lines[0][1].count(",") + 1 if lines else widths[0]
    for number, line in lines:
        cells = line.split(",")
        if len(cells) not in widths or len(cells) != width:
            wanted = f"{width} as in the first" if len(cells) in widths else "6 to 10"
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns, {wanted} were expected",
                "rows are frame,id,left,top,width,height,...",
            )
        try:
            table.append([float(cell) for cell in cells])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}", "all columns are numbers") from error
    return np.array(table, dtype=np.float64).reshape(len(table), width)


def _rows(
    path: Path,
    table: Array,
    lines: Sequence[tuple[int, str]],
    score: Any,
    category: Any = PERSON,
    visibility: Any = 1.0,
    valid: Any = True,
) -> Rows:
    wrong = {
        "frames count from 1": table[:, 0] < 1,
        "a frame is a whole number": table[:, 0] != np.floor(table[:, 0]),
        "width and height are not negative": (table[:, 4:6] < 0).any(1),
        "numbers are finite": ~np.isfinite(table).all(1),
    }
    for rule, bad in wrong.items():
        if bad.any():
            number, line = lines[int(np.argmax(bad))]
            raise DataError(f"{path}, line {number}: '{line}': {rule}", "mend the line")
    boxes = table[:, 2:6].copy()
    boxes[:, :2] -= 1  # files count pixels from 1
    return make_rows(table[:, 0], table[:, 1], boxes, score, category, visibility, valid)


def _read_kitti(path: Path, lines: Sequence[tuple[int, str]]) -> Rows:
    """Read `frame id type truncated occluded alpha left top right bottom ...`, frames from 0."""
    frame, identity, boxes, category, valid = [], [], [], [], []
    for number, line in lines:
        cells = line.split()
        try:
            left, top, right, bottom = (float(cell) for cell in cells[6:10])
            place, name, owner = int(cells[0]), cells[2], int(cells[1])
            if place < 0 or right < left or bottom < top:
                raise ValueError("a negative frame, width or height")
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{path}, line {number}: no KITTI row ({error})",
                "rows are frame id type truncated occluded alpha left top right bottom ...",
            ) from error
        frame.append(place + 1)
        identity.append(owner)
        boxes.append((left, top, right - left, bottom - top))
        category.append(KITTI_CLASSES.get(name, 0))
        valid.append(name != "DontCare")
    return make_rows(frame, identity, boxes, 1.0, category, 1.0, valid)


def read_scalabel(path: str | Path) -> dict[str, Rows]:
    """Read a Scalabel/BDD100K file: the rows of every video by its name.

    `frameIndex` counts from 0. Categories are numbered 1, 2, ... in alphabetical order, people
    ("pedestrian", "person") always first. Raises `DataError` that names the entry.
    """
    try:
        document = json.loads(Path(path).read_text())
        frames = document["frames"] if isinstance(document, dict) else document
        entries = [(frame, label) for frame in frames for label in frame.get("labels") or []]
        names = {str(label["category"]) for _, label in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no Scalabel file ({error!r})") from error
    ordered = sorted(names, key=lambda name: (name not in ("pedestrian", "person"), name))
    numbers = {name: i for i, name in enumerate(ordered, 1)}
    videos: dict[str, list[tuple[Any, ...]]] = {}
    owners: dict[tuple[str, str], int] = {}
    try:
        for frame, label in entries:
            video, box = str(frame["videoName"]), label["box2d"]
            owner = owners.setdefault((video, str(label["id"])), len(owners) + 1)
            corner = (float(box["x1"]), float(box["y1"]))
            size = (float(box["x2"]) - corner[0], float(box["y2"]) - corner[1])
            if min(size) < 0:
                raise ValueError(f"negative size of {label['id']} in frame {frame['frameIndex']}")
            row = (
                int(frame["frameIndex"]) + 1,
                owner,
                (*corner, *size),
                numbers[label["category"]],
            )
            videos.setdefault(video, []).append(row)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an entry is damaged ({error})") from error
    return {name: _video_rows(rows) for name, rows in videos.items()}


def _video_rows(rows: Sequence[tuple[Any, ...]]) -> Rows:
    frame, identity, boxes, category = zip(*rows, strict=True)
    return make_rows(frame, identity, boxes, 1.0, category)
