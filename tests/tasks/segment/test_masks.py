from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.tasks.segment.masks import (
    Letterbox,
    MaskFile,
    Polygons,
    Runs,
    box_of,
    decode_runs,
    encode_runs,
    fill,
    parse_mask,
    rasterise,
    union,
    unpack_counts,
)

from .helpers import box_mask


def test_run_lengths_equal_cocos() -> None:
    from pycocotools import mask as coco

    random = np.random.default_rng(0)
    for _ in range(100):
        mask = random.random(random.integers(1, 10, 2)) < random.random()
        runs = encode_runs(mask)
        assert np.array_equal(decode_runs(runs), mask)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert tuple(unpack_counts(theirs["counts"].decode())) == runs.counts


def test_long_runs_of_compressed_text_equal_cocos() -> None:
    from pycocotools import mask as coco

    mask = box_mask(300, 500, 40, 10, 460, 250)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = theirs["counts"].decode()
    parsed = parse_mask({"size": [300, 500], "counts": text}, Path(), "x")
    assert np.array_equal(rasterise(parsed, (300, 500), "x"), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_cover_what_cocos_cover() -> None:
    from pycocotools import mask as coco

    outline = [10.0, 10.0, 80.0, 20.0, 60.0, 70.0, 20.0, 60.0]
    theirs = coco.decode(coco.merge(coco.frPyObjects([outline], 80, 100))).astype(bool)
    ours = fill(Polygons((tuple(outline),)), (80, 100))
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95
    shares = tuple(x / (100, 80)[i % 2] for i, x in enumerate(outline))
    again = fill(Polygons((shares,), relative=True), (80, 100))
    assert (again ^ ours).sum() < 10


def test_mask_images(tmp_path: Path) -> None:
    levels = np.zeros((6, 9), dtype=np.uint8)
    levels[1:3, 2:5], levels[4, 7] = 255, 2
    Image.fromarray(levels).save(tmp_path / "m.png")
    whole = rasterise(MaskFile(tmp_path / "m.png"), (6, 9), "x")
    assert np.array_equal(whole, levels > 0)
    assert rasterise(MaskFile(tmp_path / "m.png", 2), (6, 9), "x").sum() == 1
    with pytest.raises(DataError, match=r"m.png: the mask is 9 x 6, its image 8 x 6"):
        rasterise(MaskFile(tmp_path / "m.png"), (6, 8), "x")
    with pytest.raises(DataError, match="empty"):
        rasterise(MaskFile(tmp_path / "m.png", 3), (6, 9), "x")
    with pytest.raises(DataError, match="does not exist"):
        rasterise(MaskFile(tmp_path / "none.png"), (6, 9), "x")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable image"):
        rasterise(MaskFile(tmp_path / "bad.png"), (6, 9), "x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "not a mask"),
        ([[1, 2, 3]], "not a mask"),
        ([[1, 2, 3, 4, 5, "6"]], "not a mask"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not a mask"),
        ([[1, 2, 3, 4, 5, -float("inf")]], "not a mask"),
        ([[1, 2, 3, 4, 5, 1e300]], "not a mask"),
        ({"size": [2, 2], "counts": [1, 2]}, "do not fill"),
        ({"size": [2, 2], "counts": [-1, 5]}, "do not fill"),
        ({"size": [2, 2], "counts": "~~"}, "damaged"),
        ({"size": [2, 2], "counts": "o"}, "damaged"),
        ({"size": "ab", "counts": [4]}, "damaged"),
    ],
)
def test_damaged_masks_are_named(value: object, said: str) -> None:
    with pytest.raises(DataError, match=f"here.*{said}"):
        parse_mask(value, Path(), "here")


def test_parsed_masks() -> None:
    assert parse_mask("a.png", Path("d"), "x") == MaskFile(Path("d/a.png"))
    assert parse_mask({"size": [2, 1], "counts": [1, 1]}, Path(), "x") == Runs((1, 1), (2, 1))
    assert isinstance(parse_mask([[0, 0, 1, 0, 1, 1]], Path(), "x"), Polygons)


@pytest.mark.parametrize("seed", range(4))
def test_letterbox_and_back(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 2001, (50, 2)).tolist()
    for height, width in [*sizes, (1, 1), (1, 2000), (2000, 1)]:
        check_there_and_back(height, width)


def check_there_and_back(height: int, width: int) -> None:
    box = Letterbox(320, height, width)
    (h, w), (top, left) = box.inner, box.corner
    assert max(h, w) == 320
    assert 0 <= top <= 320 - h
    assert 0 <= left <= 320 - w
    assert box.crop(np.zeros((320, 320), dtype=bool)).shape == (h, w)
    # The centre of the photograph, there and back, moves by less than a pixel.
    for side, inner, corner in ((height, h, top), (width, w, left)):
        there = side / 2 * inner / side + corner
        assert abs((there - corner) * side / inner - side / 2) < 1
        assert abs(there - 160) <= 0.5


@pytest.mark.parametrize(("height", "width"), [(50, 80), (81, 33), (320, 320), (7, 400)])
def test_a_box_comes_back_to_its_place(height: int, width: int) -> None:
    box = Letterbox(320, height, width)
    mask = box_mask(height, width, width // 4, height // 4, max(width // 2, 1), max(height // 2, 2))
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    square = box.pad(picture, Image.Resampling.BILINEAR)
    inner = Image.fromarray(box.crop(np.array(square))).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    back = np.array(inner) > 127
    one, two = box_of(mask), box_of(back)
    assert one is not None
    assert two is not None
    for axis in (0, 1):
        assert abs(one[axis] + one[axis + 2] - two[axis] - two[axis + 2]) / 2 <= 1


def test_boxes_and_unions() -> None:
    mask = box_mask(5, 7, 2, 1, 4, 3)
    assert box_of(mask) == (2, 1, 4, 3)
    assert box_of(np.zeros((2, 2), dtype=bool)) is None
    assert union([mask, box_mask(5, 7, 0, 0, 1, 1)]).sum() == 5
