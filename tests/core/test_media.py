from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlkit.core import media
from mlkit.core.errors import DataError


def test_png_round_trip(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7)) / 255
    media.write_image(tmp_path / "a.png", image)
    again = np.array(media.read_image(tmp_path / "a.png"))
    assert np.array_equal(again, (image * 255).round().byte().permute(1, 2, 0).numpy())


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert media.read_image(tmp_path / "a.jpg").size == (4, 8)


def test_broken_images_name_the_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "png")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-500])
    for name, pattern in (("cut.png", "not a readable image"), ("none.png", "does not exist")):
        with pytest.raises(DataError, match=rf"{name}.*{pattern}"):
            media.read_image(tmp_path / name)


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(media, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="40x40"):
        media.read_image(tmp_path / "a.png")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["", "\x89PNG\r\n\x1a\n", "BM", "GIF89a"]))
def test_random_bytes_are_never_a_traceback(tmp_path: Path, data: bytes, magic: str) -> None:
    (tmp_path / "x.png").write_bytes(magic.encode("latin1") + data)
    with pytest.raises(DataError):
        media.read_image(tmp_path / "x.png")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        media.find_images(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_round_trip(tmp_path: Path, suffix: str) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    data = bytes([0, 0, 8, 3]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path = tmp_path / f"a-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    assert np.array_equal(media.read_idx(path), array)
    path.write_bytes(gzip.compress(data[:-1]) if suffix else data[:-1])
    with pytest.raises(DataError, match="its length disagrees"):
        media.read_idx(path)


def test_idx_with_a_huge_header_or_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 8, 2]) + b"\xff" * 8 + b"x")
    with pytest.raises(DataError, match="disagrees"):
        media.read_idx(path)
    for data in (b"", b"\0\0", b"hello world"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not an IDX file"):
            media.read_idx(path)


def test_contact_sheet_places_every_image() -> None:
    images = torch.rand(5, 1, 3, 4)
    sheet = media.contact_sheet(images, columns=2, gap=1)
    assert sheet.shape == (1, 3 * 3 + 2, 2 * 4 + 1)
    assert torch.equal(sheet[:, 4:7, 5:9], images[3])
    assert bool((sheet[:, 8:, 5:] == 1).all())


def test_the_middle_square_is_cut_out() -> None:
    pixels = np.zeros((6, 12, 3), np.uint8)
    pixels[:, 3:9] = 200
    image = Image.fromarray(pixels)
    square = media.centre_square(image, 6, 6, Image.Resampling.NEAREST)
    assert (np.array(square) == 200).all()
    assert media.centre_square(image, 4, 8, Image.Resampling.BILINEAR).size == (4, 4)
    same = Image.new("RGB", (5, 5))
    assert media.centre_square(same, 5, 9, Image.Resampling.NEAREST) is same


def test_images_that_choose_are_spread_over_the_folder(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("L", (2, 2)).save(tmp_path / f"{number}.png")
    train, judges = media.hold_out(tmp_path, None, 8)
    assert [path.stem for path in judges] == ["0", "5"]  # a quarter at most
    assert [path.stem for path in train] == ["1", "2", "3", "4", "6", "7", "8", "9"]
    assert media.hold_out(tmp_path, tmp_path, 8) == (media.find_images(tmp_path),) * 2
    for number in range(3, 10):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(DataError, match="3 images are too few"):
        media.hold_out(tmp_path, None, 8)
