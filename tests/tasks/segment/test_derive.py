from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.tasks.segment.config import DeriveConfig, SourceOptions
from mlkit.tasks.segment.derive import colour_names, derive_references
from mlkit.tasks.segment.groups import GROUPS, group_of
from mlkit.tasks.segment.instances import read_scenes, size_of
from mlkit.tasks.segment.masks import box_of, decode_runs
from mlkit.tasks.segment.references import Reference, open_references

RED, BLUE, GREY = (200, 30, 30), (40, 60, 210), (120, 120, 120)
# class, left, top, right, bottom in pixels of a picture 100 x 50, colour
Box = tuple[int, int, int, int, int, tuple[int, int, int]]


def photograph(folder: Path, *boxes: Box, name: str = "p") -> None:
    """Draw rectangles and write their YOLO polygons; classes: dog, car, cat."""
    pixels = np.full((50, 100, 3), GREY, dtype=np.uint8)
    rows = []
    for number, left, top, right, bottom, colour in boxes:
        pixels[top:bottom, left:right] = colour
        corners = ((left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1))
        rows.append(f"{number} " + " ".join(f"{x / 100} {y / 50}" for x, y in corners))
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    (folder / "labels" / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("dog\ncar\ncat\n")


def derived(folder: Path, labels: str = "labels", **options: Any) -> list[Reference]:
    out = folder / "refs.jsonl"
    derive_references(
        DeriveConfig(
            photos=folder / "images", labels=folder / labels, out=out, overwrite=True, **options
        )
    )
    return open_references(out, SourceOptions())


def said(references: list[Reference]) -> dict[str, Any]:
    """The left edge of what each sentence means."""
    return {r.expression: box_of(decode_runs(r.mask))[0] for r in references}  # type: ignore


def test_unique_side_size_order_and_colour(tmp_path: Path) -> None:
    photograph(
        tmp_path,
        (0, 2, 10, 10, 20, RED),
        (0, 30, 10, 55, 35, BLUE),
        (0, 70, 10, 78, 20, RED),
        (1, 84, 30, 98, 44, BLUE),
    )
    references = derived(tmp_path)
    assert said(references) == {
        "the leftmost dog": 2,
        "the rightmost dog": 70,
        "the largest dog": 30,
        "the second dog from the left": 30,
        "the blue dog": 30,
        "the car": 84,
    }
    kinds = {r.expression: r.kind for r in references}
    assert kinds["the car"] == "unique"
    assert kinds["the second dog from the left"] == "order"
    dogs = decode_runs(references[0].candidates)  # type: ignore[arg-type]
    assert box_of(dogs) == (2, 10, 78, 35)


def test_what_is_not_clear_is_not_said(tmp_path: Path) -> None:
    photograph(
        tmp_path, (0, 10, 10, 22, 22, RED), (0, 14, 30, 26, 42, RED), (1, 60, 5, 80, 25, RED)
    )
    assert set(said(derived(tmp_path))) == {"the car"}  # 4 % apart, equally large, both red
    photograph(
        tmp_path, (0, 10, 10, 13, 12, RED), (0, 50, 10, 62, 22, BLUE), (1, 70, 5, 90, 25, RED)
    )
    # The small dog is not referred to, but is there: the other is no "the dog".
    assert set(said(derived(tmp_path, min_area=0.01))) == {
        "the rightmost dog",
        "the largest dog",
        "the blue dog",
        "the car",
    }


def test_groups(tmp_path: Path) -> None:
    photograph(tmp_path, (0, 5, 10, 15, 20, RED), (2, 50, 10, 60, 20, RED), (1, 70, 5, 90, 25, RED))
    assert "the leftmost animal" in said(derived(tmp_path, groups=True))
    assert "the vehicle" in said(derived(tmp_path, groups=True))
    assert "the dog" in said(derived(tmp_path))
    assert group_of("kite") == "object"
    assert sum(len(names.split(",")) for names in GROUPS.values()) == 1 + 8 + 10 + 7 + 10


def test_mask_images_and_coco_say_the_same(tmp_path: Path) -> None:
    photograph(tmp_path, (0, 5, 10, 15, 20, RED), (0, 50, 10, 60, 20, RED))
    want = said(derived(tmp_path))
    numbers = np.zeros((50, 100), dtype=np.uint8)
    numbers[10:20, 5:15], numbers[10:20, 50:60] = 1, 2
    (tmp_path / "masks").mkdir()
    Image.fromarray(numbers).save(tmp_path / "masks" / "p.png")
    assert said(derived(tmp_path, "masks", noun="dog")) == want
    corners = [[5, 10, 14, 10, 14, 19, 5, 19], [50, 10, 59, 10, 59, 19, 50, 19]]
    document = {
        "images": [{"id": 1, "file_name": "p.png"}],
        "categories": [{"id": 9, "name": "dog"}],
        "annotations": [
            *({"id": i, "image_id": 1, "category_id": 9, "segmentation": [c]}
              for i, c in enumerate(corners)),
            {"id": 5, "image_id": 1, "category_id": 9, "segmentation": 3, "iscrowd": 1},
        ],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(document))
    assert said(derived(tmp_path, "coco.json")) == want
    (tmp_path / "coco.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="not a file of COCO instances: no 'categories'"):
        derived(tmp_path, "coco.json")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("7 0 0 1 0 1 1", "class 7 of 3"),
        ("0 0 0 1 0", "not a polygon"),
        ("0 0 0 2 0 1 1", "not a polygon"),
        ("dog 0 0 1 0 1 1", "line 1"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, line: str, word: str) -> None:
    photograph(tmp_path, (0, 5, 10, 15, 20, RED))
    (tmp_path / "labels" / "p.txt").write_text(line)
    with pytest.raises(DataError, match=word):
        derived(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    photograph(tmp_path, (0, 5, 10, 15, 20, RED))
    with pytest.raises(DataError, match="does not exist"):
        derived(tmp_path, "nowhere")
    (tmp_path / "labels" / "p.txt").rename(tmp_path / "labels" / "q.txt")
    with pytest.raises(DataError, match="no labels for the images"):
        derived(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*classes.txt"):
        read_scenes(DeriveConfig(photos=tmp_path / "images", labels=tmp_path / "labels"))


def test_a_photograph_whose_labels_do_not_fit_is_left_out(tmp_path: Path) -> None:
    photograph(tmp_path, (0, 5, 10, 15, 20, RED))
    photograph(tmp_path, (0, 5, 10, 15, 20, RED), name="q")
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, side in (("p", 100), ("q", 90)):
        Image.fromarray(np.ones((50, side), dtype=np.uint8)).save(masks / f"{name}.png")
    config = DeriveConfig(
        photos=tmp_path / "images", labels=masks, out=tmp_path / "r.jsonl", noun="dog"
    )
    result = derive_references(config)
    assert list(result.failures) == [str(tmp_path / "images" / "q.png")]
    assert result.metrics["references"] == 1


def test_colours_have_their_names() -> None:
    samples = {
        "red": RED, "blue": BLUE, "grey": GREY, "white": (250, 250, 250), "black": (15, 12, 10),
        "green": (40, 160, 50), "yellow": (230, 220, 40), "brown": (110, 70, 30),
        "orange": (240, 130, 30),
    }  # fmt: skip
    pixels = Image.fromarray(np.array([list(samples.values())], dtype=np.uint8)).convert("HSV")
    assert colour_names(np.array(pixels)[0]).tolist() == list(samples)


def test_sizes_are_those_that_are_shown(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    assert size_of(tmp_path / "turned.jpg") == (20, 10)
    assert size_of(tmp_path / "plain.jpg") == (10, 20)
    with pytest.raises(DataError, match="does not exist"):
        size_of(tmp_path / "none.jpg")
