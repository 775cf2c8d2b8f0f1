from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.core.labelled import list_labelled, scan_classes


def test_class_folders(class_folder: Path, tmp_path: Path) -> None:
    found = scan_classes(class_folder)
    assert found.classes == ["blue", "red"]
    assert list(found.labels) == [0] * 10 + [1] * 10
    Image.new("L", (2, 2)).save(class_folder / "stray.png")
    with pytest.raises(DataError, match="outside of class folders"):
        scan_classes(class_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        scan_classes(tmp_path / "empty")


def test_a_table_lists_what_a_folder_holds(class_folder: Path) -> None:
    scanned = list_labelled(class_folder)
    lines = [
        f"{path.relative_to(class_folder)},{scanned.classes[label]}"
        for path, label in zip(scanned.paths, scanned.labels, strict=True)
    ]
    table = class_folder / "labels.csv"
    table.write_text("\n".join(["path,label", *lines]))
    assert list_labelled(table) == scanned
    table.write_text("\n".join(["label,file,note", *(f"{b},{a},x" for a, b in map(_cells, lines))]))
    assert list_labelled(table) == scanned


def _cells(line: str) -> list[str]:
    return line.split(",")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "path,label\na.png,x\nb.png,y\n", "2 files do not exist: "),
        ("t.csv", "path,label\n", "no rows"),
        ("t.csv", "path,label\na.png,\n", "t.csv"),
        ("t.csv", "picture,kind\na.png,x\n", "t.csv"),
        ("t.bin", "", "neither a folder nor a table"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        list_labelled(tmp_path / name)


def test_an_empty_class_folder_is_refused(class_folder: Path) -> None:
    (class_folder / "green").mkdir()
    with pytest.raises(DataError, match="green is an empty class folder"):
        list_labelled(class_folder)
