from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from mlkit.core.errors import DataError
from mlkit.tasks.segment.config import SourceOptions
from mlkit.tasks.segment.masks import MaskFile, Polygons, Runs, encode_runs
from mlkit.tasks.segment.references import (
    Reference,
    open_references,
    read_plain_pickle,
    read_queries,
    write_references,
)

from .helpers import box_mask, lines, photograph

BOX = encode_runs(box_mask(8, 12, 1, 1, 5, 5))
NONE = SourceOptions()


def test_json_lines_come_back(tmp_path: Path) -> None:
    image = photograph(tmp_path / "images" / "a.png")
    made = [
        Reference(image, "the dög", BOX, "1", "train", "unique", BOX),
        Reference(image, "nothing", None, "2", "test", "none"),
        Reference(image, "a file", MaskFile(tmp_path / "masks" / "a.png"), "3"),
        Reference(image, "outlines", Polygons(((0, 0, 3, 0, 3, 3),)), "4"),
    ]
    write_references(tmp_path / "refs.jsonl", made)
    assert open_references(tmp_path / "refs.jsonl", NONE) == made
    first = json.loads((tmp_path / "refs.jsonl").read_text().splitlines()[0])
    assert first["image"] == "images/a.png"


def test_photographs_elsewhere(tmp_path: Path) -> None:
    image = photograph(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    table = lines(
        tmp_path / "data" / "r.jsonl", {"image": "a.png", "expression": "x", "mask": None}
    )
    with pytest.raises(DataError, match="1 images are missing"):
        open_references(table, NONE)
    found = open_references(table, SourceOptions(images=tmp_path / "elsewhere"))
    assert found[0].image == image


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ('{"image": "a.png", "mask": null}', "line 2: no 'expression'"),
        ('{"image": "a.png", "expression": " ", "mask": null}', "line 2: the expression is empty"),
        ('{"image": "a.png", "expression": "x"}', "line 2: no 'mask'"),
        ('{"image": "a.png", "expression": "x", "mask": 3}', "line 2: not a mask"),
        ("[]", "line 2"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    photograph(tmp_path / "a.png")
    good = '{"image": "a.png", "expression": "x", "mask": null}'
    (tmp_path / "r.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=said):
        open_references(tmp_path / "r.jsonl", NONE)


def test_files_that_are_no_references(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_references(tmp_path / "none.jsonl", NONE)
    with pytest.raises(DataError, match="is a folder"):
        open_references(tmp_path, NONE)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no references"):
        open_references(tmp_path / "empty.jsonl", NONE)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not text"):
        open_references(tmp_path / "binary.jsonl", NONE)


def refer(folder: Path, **changes: Any) -> Path:
    """Write a REFER data set of one photograph, two sentences about one dog, one about a cat."""
    photograph(folder / "images" / "a.png")
    instances = {
        "images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 12}],
        "annotations": [
            {"id": 1, "image_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]},
            {"id": 2, "image_id": 7, "segmentation": {"size": [8, 12], "counts": list(BOX.counts)}},
        ],
        "categories": [],
    }
    refs = [
        {"ref_id": 3, "ann_id": 1, "image_id": 7, "split": "train", "sent_ids": [0, 1],
         "sentences": [{"sent_id": 0, "sent": "left dog"}, {"sent_id": 1, "sent": "the dog"}]},
        {"ref_id": 4, "ann_id": 2, "image_id": 7, "split": "testA",
         "sentences": [{"sent_id": 2, "sent": "cat"}]},
    ]  # fmt: skip
    (folder / "instances.json").write_text(json.dumps({**instances, **changes}))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder / "refs(unc).p"


def test_refer_is_read(tmp_path: Path) -> None:
    found = open_references(refer(tmp_path), NONE)
    assert [(r.expression, r.split, r.id) for r in found] == [
        ("left dog", "train", "3-0"),
        ("the dog", "train", "3-1"),
        ("cat", "testA", "4-2"),
    ]
    assert isinstance(found[0].mask, Polygons)
    assert found[2].mask == BOX
    options = SourceOptions(images=tmp_path / "images", instances=tmp_path / "instances.json")
    assert open_references(tmp_path / "refs(unc).p", options) == found


def test_refer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fit: no 1"):
        open_references(refer(tmp_path, annotations=[]), NONE)
    runs = {"size": [12, 8], "counts": [96]}
    wrong = [{"id": n, "image_id": 7, "segmentation": runs} for n in (1, 2)]
    with pytest.raises(DataError, match="size differs"):
        open_references(refer(tmp_path, annotations=wrong), NONE)
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        open_references(tmp_path / "refs(unc).p", NONE)
    (tmp_path / "instances.json").unlink()
    with pytest.raises(DataError, match="cannot read"):
        open_references(tmp_path / "refs(unc).p", NONE)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_nothing_in_a_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = [{"a": (1, 2.5, None, True), "b": "ü"}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "p.p").write_bytes(pickle.dumps(plain, protocol))
        assert read_plain_pickle(tmp_path / "p.p") == plain
        (tmp_path / "e.p").write_bytes(pickle.dumps([Evil()], protocol))
        with pytest.raises(DataError, match=r"e.p is not a pickle of plain data .*mkdir"):
            read_plain_pickle(tmp_path / "e.p")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "x.p").write_bytes(b"\x80\x04junk")
    with pytest.raises(DataError, match="not a pickle"):
        open_references(tmp_path / "x.p", NONE)


def test_queries(tmp_path: Path) -> None:
    table = lines(tmp_path / "q.jsonl", {"image": "a.png", "expression": "the dog"})
    assert read_queries(table) == [(tmp_path / "a.png", "the dog")]
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(DataError, match="line 1: 'expression'"):
        read_queries(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no queries"):
        read_queries(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        read_queries(tmp_path / "none.jsonl")


def test_runs_are_plain() -> None:
    assert Runs((1, 2), (1, 3)) == Runs((1, 2), (1, 3))
