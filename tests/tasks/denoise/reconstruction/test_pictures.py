from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, sparse

from mlkit.core.errors import DataError, UsageError
from mlkit.tasks.denoise.reconstruction.config import MatrixConfig, PictureConfig
from mlkit.tasks.denoise.reconstruction.pictures import read_matrix, read_picture

from .helpers import phantom

KERNEL = np.outer([1, 2, 1], [1, 3, 2]) / 24


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def write(array: Any, name: str) -> Path:
        if name.endswith(".png"):
            Image.fromarray(np.asarray(array, np.uint8)).save(tmp_path / name)
        else:
            np.save(tmp_path / name, np.asarray(array))
        return tmp_path / name

    return write


def read(path: Path, **options: Any) -> Any:
    return read_picture(PictureConfig.create(image=path, **options))


def inner(operator: Any, image: torch.Tensor, margin: int) -> np.ndarray[Any, Any]:
    """Measure an image that goes on mirrored beyond the frame."""
    around = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    wide = torch.from_numpy(np.pad(image.numpy(), around, "symmetric"))
    return np.asarray(operator(wide)[0, 0])


@pytest.mark.parametrize("boundary", ["unknown", "symmetric"])
def test_the_blur_is_a_convolution_with_the_kernel(save: Any, boundary: str) -> None:
    """Both agree for an image that really goes on mirrored; the kernel's sum does not matter."""
    blurred = ndimage.convolve(phantom()[0, 0].numpy(), KERNEL, mode="reflect")
    path, kernel = save(blurred, "y.npy"), save(10 * KERNEL, "k.npy")
    scan, _, margin = read(path, kernel=kernel, boundary=boundary)
    np.testing.assert_allclose(inner(scan.operator, phantom(), margin), blurred, atol=1e-6)
    assert scan.classical.shape == (1, 1, 24 + 2 * margin, 24 + 2 * margin)


@pytest.mark.parametrize("scale", [2, 3])
def test_small_pictures_are_means_of_squares(save: Any, scale: int) -> None:
    small = torch.nn.functional.avg_pool2d(phantom(), scale)
    scan, _, margin = read(save(small[0, 0], "y.npy"), scale=scale)
    np.testing.assert_allclose(inner(scan.operator, phantom(), margin), small[0, 0], atol=1e-6)
    assert scan.data.shape == small.shape


def test_small_pictures_with_a_kernel_and_an_offset(save: Any) -> None:
    blurred = ndimage.convolve(phantom()[0, 0].numpy(), KERNEL, mode="reflect")
    path, kernel = save(blurred[1::2, 1::2], "y.npy"), save(KERNEL, "k.npy")
    scan, _, margin = read(path, kernel=kernel, scale=2, offset=1)
    np.testing.assert_allclose(
        inner(scan.operator, phantom(), margin), blurred[1::2, 1::2], atol=1e-6
    )


def test_missing_pixels_are_filled_from_around_to_begin_with(save: Any) -> None:
    mask = np.ones((24, 24))
    mask[5:15, 8:18] = 0
    picture = np.where(mask, 0.5, 99.0)
    scan, _, _ = read(save(picture, "y.npy"), mask=save(255 * mask, "m.png"))
    assert float(scan.data.max()) == 0.5
    torch.testing.assert_close(scan.classical, torch.full_like(scan.classical, 0.5))
    assert scan.numbers == mask.sum()
    assert float(scan.operator(scan.classical)[0, 0, 10, 10]) == 0


def test_colours_are_items_and_depth_is_kept(save: Any) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (20, 22, 3))
    scan, picture, _ = read(save(colours, "y.png"), scale=2)
    assert scan.data.shape == (3, 1, 20, 22)
    assert picture.depth == 8
    np.testing.assert_allclose(scan.data[1, 0], colours[..., 1] / 255, atol=1e-6)


def test_options_that_make_no_sense(save: Any) -> None:
    path = save(np.ones((20, 20)), "y.npy")
    kernel = save(KERNEL, "k.npy")
    with pytest.raises(UsageError, match="nothing to undo"):
        read(path)
    with pytest.raises(UsageError, match="--offset needs --kernel"):
        read(path, scale=2, offset=1)
    with pytest.raises(UsageError, match="smaller than --scale 2"):
        read(path, scale=2, offset=2, kernel=kernel)
    with pytest.raises(DataError, match="its sum is 1"):
        read(path, kernel=save(KERNEL - 1, "k.npy"))
    with pytest.raises(DataError, match="a kernel is a matrix"):
        read(path, kernel=save(np.ones(5), "k.npy"))
    with pytest.raises(DataError, match="larger than the image"):
        read(path, kernel=save(np.ones((3, 41)), "k.npy"))
    with pytest.raises(DataError, match=r"m\.npy has shape"):
        read(path, mask=save(np.ones((3, 3)), "m.npy"))
    with pytest.raises(DataError, match="no pixel is left"):
        read(path, mask=save(np.zeros((20, 20)), "m.npy"))
    with pytest.raises(DataError, match="not a picture"):
        read(save(np.ones(4), "y.npy"), scale=2)
    with pytest.raises(DataError, match="neither grey nor"):
        read(save(np.ones((7, 20, 20)), "y.npy"), scale=2)


def matrix(path: Path, operator: Path, shape: str = "4x5") -> Any:
    return read_matrix(MatrixConfig.create(data=path, operator=operator, shape=shape))


def test_explicit_matrices(save: Any, tmp_path: Path) -> None:
    a = sparse.random(30, 20, 0.5, random_state=0, format="csr")
    image = np.arange(20.0)
    path = save(a @ image, "y.npy")
    sparse.save_npz(tmp_path / "A.npz", a)
    for operator in (tmp_path / "A.npz", save(a.toarray(), "A.npy")):
        scan = matrix(path, operator)
        found = scan.operator(torch.from_numpy(image).float().reshape(1, 1, 4, 5))
        np.testing.assert_allclose(found, scan.data, rtol=1e-5)
        assert scan.numbers == 30
        assert np.isnan(scan.noise)


def test_matrices_that_do_not_fit(save: Any, tmp_path: Path) -> None:
    path = save(np.ones(30), "y.npy")
    sparse.save_npz(tmp_path / "A.npz", sparse.random(30, 20, 0.5, random_state=0))
    with pytest.raises(DataError, match="has 20 columns, an image of 4 x 6 has 24"):
        matrix(path, tmp_path / "A.npz", "4x6")
    with pytest.raises(DataError, match="has 30 rows"):
        matrix(save(np.ones(29), "z.npy"), tmp_path / "A.npz")
    with pytest.raises(DataError, match="complex"):
        matrix(save(1j * np.ones(30), "z.npy"), tmp_path / "A.npz")
    with pytest.raises(DataError, match="does not exist"):
        matrix(path, tmp_path / "B.npz")
    (tmp_path / "B.npz").write_text("no")
    with pytest.raises(DataError, match="not a sparse matrix"):
        matrix(path, tmp_path / "B.npz")
    with pytest.raises(DataError, match="real matrix"):
        matrix(path, save(np.ones(20), "B.npy"))
    with pytest.raises(DataError, match="zero everywhere"):
        matrix(path, save(np.zeros((30, 20)), "B.npy"))
    sparse.save_npz(tmp_path / "N.npz", sparse.csr_matrix(np.full((30, 20), np.nan)))
    with pytest.raises(DataError, match="not finite"):
        matrix(path, tmp_path / "N.npz")
