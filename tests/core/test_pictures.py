from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from mlkit.core.errors import DataError, UsageError
from mlkit.core.pictures import Picture, check_format, encode_picture, read_picture, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def random_picture(channels: int, depth: int, alpha: bool, icc: bytes | None = None) -> Picture:
    random = np.random.default_rng(0)
    top, kind = (256, np.uint8) if depth == 8 else (65536, np.uint16)
    values = random.integers(0, top, (channels, 13, 17)).astype(np.float64) / (top - 1)
    opacity = random.integers(0, top, (13, 17)).astype(kind) if alpha else None
    return Picture(torch.from_numpy(values).float(), depth, opacity, icc)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("icc", [None, PROFILE])
def test_what_is_written_is_read_again(
    tmp_path: Path, suffix: str, channels: int, depth: int, alpha: bool, icc: bytes | None
) -> None:
    picture = random_picture(channels, depth, alpha, icc)
    path = tmp_path / f"picture{suffix}"
    if (suffix, channels, depth, alpha) == (".tif", 1, 16, True):
        with pytest.raises(DataError, match="grey with alpha"):
            write_picture(path, picture)
        return
    write_picture(path, picture)
    found = read_picture(path)
    np.testing.assert_array_equal(found.pixels(), picture.pixels())
    assert (found.depth, found.icc) == (depth, icc)
    assert (found.alpha is not None) == alpha
    assert found.suffix == suffix


def test_other_readers_agree(tmp_path: Path) -> None:
    """Pillow shows the upper eight bits of our 16-bit files, and the profile."""
    for suffix in (".png", ".tif"):
        picture = random_picture(3, 16, False, PROFILE)
        write_picture(tmp_path / f"p{suffix}", picture)
        with Image.open(tmp_path / f"p{suffix}") as image:
            assert image.info["icc_profile"] == PROFILE
            np.testing.assert_array_equal(np.asarray(image), picture.pixels() >> 8)


def test_16_bit_grey_of_pillow(tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 65536, (9, 11)).astype(np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(levels).save(tmp_path / f"grey{suffix}")
        found = read_picture(tmp_path / f"grey{suffix}")
        assert found.depth == 16
        np.testing.assert_array_equal(found.pixels()[..., 0], levels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_picture(path).pixels(), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_pillow(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 6), (200, 100, 50)).convert("P" if mode == "PA" else "RGB")
    suffix = {"CMYK": ".jpg", "YCbCr": ".jpg"}.get(mode, ".png")
    if mode == "PA":
        image.save(tmp_path / f"m{suffix}", transparency=0)
    else:
        image.convert(mode).save(tmp_path / f"m{suffix}")
    found = read_picture(tmp_path / f"m{suffix}")
    assert len(found.planes) == (1 if mode in ("1", "L", "LA") else 3)
    assert (found.alpha is not None) == (mode in ("LA", "RGBA", "PA"))


def test_jpeg_and_webp(tmp_path: Path) -> None:
    smooth = torch.linspace(0, 1, 40).expand(3, 30, 40).contiguous()
    for suffix, error in ((".jpg", 0.02), (".webp", 0.003)):
        write_picture(tmp_path / f"p{suffix}", Picture(smooth, icc=PROFILE))
        found = read_picture(tmp_path / f"p{suffix}")
        assert float((found.planes - smooth).abs().max()) < error
        assert found.icc == PROFILE


@pytest.mark.parametrize(("suffix", "channels"), [(".ppm", 3), (".pgm", 1), (".bmp", 3)])
def test_plain_formats(tmp_path: Path, suffix: str, channels: int) -> None:
    picture = random_picture(channels, 8, False)
    write_picture(tmp_path / f"p{suffix}", picture)
    np.testing.assert_array_equal(read_picture(tmp_path / f"p{suffix}").pixels(), picture.pixels())


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(DataError, match="16 bits"):
        encode_picture(random_picture(3, 16, False), ".jpg")
    with pytest.raises(DataError, match="alpha"):
        encode_picture(random_picture(3, 8, True), ".jpeg")
    with pytest.raises(UsageError, match="unknown image format"):
        check_format(Path("clean.xyz"))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        read_picture(tmp_path / "broken.png")


def test_truncated_files(tmp_path: Path) -> None:
    for depth in (8, 16):
        data = encode_picture(random_picture(3, depth, False), ".png")
        (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match="not a readable image"):
            read_picture(tmp_path / "cut.png")


def test_missing_files_folders_and_float_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(DataError, match="not a readable image"):
        read_picture(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="32 bits per channel"):
        read_picture(tmp_path / "float.tif")


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlkit.core.pictures.MAX_PIXELS", 100)
    write_picture(tmp_path / "big.png", random_picture(1, 8, False))
    with pytest.raises(DataError, match="17x13 pixels, more than 100"):
        read_picture(tmp_path / "big.png")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = random_picture(3, 8, True)
    stream = io.TextIOWrapper(io.BytesIO(encode_picture(picture, ".png")))
    monkeypatch.setattr("sys.stdin", stream)
    np.testing.assert_array_equal(read_picture("-").pixels(), picture.pixels())
