from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlkit.core.errors import DataError
from mlkit.tasks.track.formats import (
    make_rows,
    read_detections,
    read_results,
    read_scalabel,
    read_truth,
    write_results,
    write_truth,
)

from .helpers import straight_tracks


def test_truth_and_results_come_back(tmp_path: Path) -> None:
    rows = straight_tracks()
    (tmp_path / "gt.txt").write_bytes(write_truth(rows))
    (tmp_path / "out.txt").write_bytes(write_results(rows))
    for back in (read_truth(tmp_path / "gt.txt"), read_results(tmp_path / "out.txt")):
        assert np.array_equal(back.frame, rows.frame)
        assert np.array_equal(back.identity, rows.identity)
        assert np.allclose(back.boxes, rows.boxes, atol=0.006)
    # Files count pixels from 1, rows from 0.
    assert (tmp_path / "out.txt").read_text().startswith("1,1,15.00,6.00,14.00,20.00,1.0000,-1")


def test_which_rows_count(tmp_path: Path) -> None:
    new = tmp_path / "mot16.txt"
    new.write_text("1,1,1,1,5,5,1,1,0.5\n1,2,1,1,5,5,0,1,1\n1,3,1,1,5,5,1,8,1\n")
    assert read_truth(new).valid.tolist() == [True, False, False]
    assert read_truth(new).visibility[0] == 0.5
    old = tmp_path / "mot15.txt"
    old.write_text("1,1,1,1,5,5,1,-1,-1,-1\n1,2,1,1,5,5,0,3,4,0\n")
    rows = read_truth(old)
    assert rows.valid.tolist() == [True, False]
    assert rows.category.tolist() == [1, 1]


def test_kitti_labels(tmp_path: Path) -> None:
    path = tmp_path / "0000.txt"
    path.write_text(
        "0 1 Car 0 0 -1.7 100 120 150 160 1 1 1 1 1 1 1\n"
        "0 2 Pedestrian 0 0 -1.7 10 20 15 60 1 1 1 1 1 1 1\n"
        "1 -1 DontCare -1 -1 -10 0 0 5 5 -1 -1 -1 -1 -1 -1 -1\n"
    )
    rows = read_truth(path)
    assert rows.frame.tolist() == [1, 1, 2]  # frames of KITTI count from 0
    assert rows.category.tolist() == [3, 1, 0]
    assert rows.boxes[1].tolist() == [10, 20, 5, 40]
    assert rows.valid.tolist() == [True, True, False]


def test_scalabel(tmp_path: Path) -> None:
    def entry(video: str, frame: int, name: str, kind: str) -> dict[str, object]:
        box = {"x1": 1, "y1": 2, "x2": 11, "y2": 22}
        return {
            "videoName": video,
            "frameIndex": frame,
            "labels": [{"id": name, "category": kind, "box2d": box}],
        }

    path = tmp_path / "labels.json"
    entries = [
        entry("a", 0, "x", "car"),
        entry("a", 1, "x", "car"),
        entry("b", 0, "y", "pedestrian"),
    ]
    path.write_text(json.dumps([*entries, {"videoName": "a", "frameIndex": 2, "labels": None}]))
    videos = read_scalabel(path)
    assert set(videos) == {"a", "b"}
    assert videos["a"].frame.tolist() == [1, 2]
    assert len(set(videos["a"].identity.tolist())) == 1
    assert videos["a"].category.tolist() == [2, 2]
    assert videos["b"].category.tolist() == [1]
    path.write_text(json.dumps([{"labels": [{"id": 1}]}]))
    with pytest.raises(DataError, match="no Scalabel"):
        read_scalabel(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,1,1,1,5\n", "line 1: 5 columns"),
        ("1,1,1,1,5,5,1,1,1\n\n2,1,1,1,5,5,1\n", "line 3: 7 columns, 9 as in the first"),
        ("1,1,1,1,5,x,1\n", "line 1: could not convert"),
        ("0,1,1,1,5,5,1\n", "line 1: .*frames count from 1"),
        ("1.5,1,1,1,5,5,1\n", "whole number"),
        ("1,1,1,1,5,5,1\n2,1,1,1,-5,5,1\n", "line 2: .*not negative"),
        ("1,1,1,1,nan,5,1\n", "finite"),
        ("1,1,1,1,5,5,1\n1,1,2,2,5,5,1\n", "identity 1 occurs twice in frame 1"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gt.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_truth(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_results(tmp_path / "none.txt")
    (tmp_path / "raw").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        read_results(tmp_path / "raw")
    (tmp_path / "kitti.txt").write_text("0 1 Car 0 0 x 1 2\n")
    with pytest.raises(DataError, match="line 1: no KITTI row"):
        read_truth(tmp_path / "kitti.txt")


def test_detections_have_no_identity_and_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "det.txt"
    path.write_text("2,7,1,1,5,5,0.5\n1,-1,1,1,5,5,0.9\n")
    rows = read_detections(path)
    assert rows.frame.tolist() == [1, 2]
    assert rows.identity.tolist() == [-1, -1]
    assert rows.score.tolist() == [0.9, 0.5]
    path.write_text("")
    assert len(read_detections(path)) == 0
    assert len(make_rows([], [], []).at(1)) == 0
