from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlkit.core.errors import DataError
from mlkit.tasks.pretrain.listing import class_numbers, open_set

from .helpers import write_videos

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """clips/CLASS/N.npy for two classes."""
    for name in ("run", "jump"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "clips" / name / f"{i}.npy", FRAMES)
    return tmp_path


def test_a_folder_of_classes(classes: Path) -> None:
    found = open_set(classes / "clips")
    assert found.names == ("jump/0.npy", "jump/1.npy", "run/0.npy", "run/1.npy")
    assert found.labels == ("jump", "jump", "run", "run")
    assert found.take([3]).labels == ("run",)
    np.save(classes / "clips" / "loose.npy", FRAMES)
    assert open_set(classes / "clips").labels is None


def test_a_table_keeps_its_columns(tmp_path: Path) -> None:
    found = open_set(write_videos(tmp_path))
    assert len(found) == 8
    assert found.labels == ("even", "odd") * 4
    assert found.columns["place"] == tuple("01230123")
    assert open_set(tmp_path / "labels.csv", "place").labels == tuple("01230123")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("run/0.npy 1\njump/1.npy 0\n", ("run", "jump")),  # UCF101: the folder is the class
        ("run/0.npy\njump/1.npy\n", ("run", "jump")),
        ("run/0.npy,7\njump/1.npy,3\n", ("7", "3")),
        ("path\tclass\nrun/0.npy\tfast\njump/1.npy\tfaster\n", ("fast", "faster")),
    ],
)
def test_lists(classes: Path, text: str, labels: tuple[str, ...]) -> None:
    """Relative to the list, or to the folder above it."""
    (classes / "clips" / "list.txt").write_text(text)
    (classes / "clips" / "splits").mkdir()
    (classes / "clips" / "splits" / "list.txt").write_text(text)
    for file in ("list.txt", "splits/list.txt"):
        found = open_set(classes / "clips" / file)
        assert found.labels == labels
        assert all(path.exists() for path in found.paths)


def test_split_files_of_hmdb51(classes: Path) -> None:
    folder = classes / "clips" / "splits"
    folder.mkdir()
    for name in ("run", "jump"):
        (folder / f"{name}_test_split1.txt").write_text("0.npy 1 \n1.npy 2 \nunused.npy 0 \n")
    found = open_set(folder)
    assert found.labels == ("jump", "jump", "run", "run")
    assert found.columns["split"] == ("train", "test") * 2
    (folder / "run_test_split1.txt").write_text("0.npy five\n")
    with pytest.raises(DataError, match="line 1 is not"):
        open_set(folder)


def test_what_is_wrong_with_a_list_is_named(classes: Path) -> None:
    table = classes / "clips" / "list.csv"
    table.write_text("path,label\nrun/0.npy,a\nrun/7.npy,b\nrun/8.npy,b\n")
    with pytest.raises(DataError, match=r"2 of 3 videos do not exist: run/7\.npy, run/8\.npy"):
        open_set(table)
    table.write_text("path,label\nrun/0.npy,\n")
    with pytest.raises(DataError, match="line 2 has no label"):
        open_set(table)
    table.write_text("label,height\na,3\n")
    with pytest.raises(DataError, match="no path column"):
        open_set(table)
    with pytest.raises(DataError, match="does not exist"):
        open_set(classes / "nothing.csv")


def test_a_single_video_is_a_set_of_one(classes: Path) -> None:
    assert open_set(classes / "clips" / "run" / "0.npy").names == ("0.npy",)


def test_classes_are_sorted_as_numbers_where_they_are() -> None:
    assert class_numbers(["10", "9", "10"], "x") == ([1, 0, 1], ["9", "10"])
    with pytest.raises(DataError, match="x has a single class: a"):
        class_numbers(["a", "a"], "x")
