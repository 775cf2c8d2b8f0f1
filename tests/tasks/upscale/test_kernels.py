from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from mlkit.core.errors import DataError, UsageError
from mlkit.core.runtime import stream
from mlkit.tasks.upscale.kernels import (
    covariance,
    delta,
    gaussian,
    is_symmetric,
    parse_gaussian,
    random_kernel,
    read_kernel,
)


def test_the_gaussian_is_its_formula() -> None:
    first, second, theta, size = 4.0, 1.5, 0.7, 9
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    matrix = turn @ np.diag([first, second]) @ turn.T
    wanted = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            point = np.array([column - 4, row - 4])
            wanted[row, column] = math.exp(-0.5 * point @ np.linalg.solve(matrix, point))
    found = gaussian(first, second, theta, size)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-15)
    torch.testing.assert_close(gaussian(first, second, theta + math.pi, size), found)


def test_numbers_are_variances() -> None:
    peak = float(gaussian(2, 2, 0, 21).max())  # of the published test kernel "g 2.0"
    assert peak == pytest.approx(0.0796, abs=5e-5)
    wide = gaussian(6.0, 2.0, math.pi / 2, 31)
    xx, xy, yy = covariance(wide).tolist()
    assert (xx, xy, yy) == pytest.approx((2.0, 0.0, 6.0), abs=0.01)


def test_the_generator_draws_what_the_paper_says() -> None:
    draw = stream(0, 1)
    moments = torch.stack([covariance(random_kernel(2.0, draw, 31)) for _ in range(3000)])
    trace = moments[:, 0] + moments[:, 2]
    half = torch.hypot((moments[:, 0] - moments[:, 2]) / 2, moments[:, 1])
    first, second = trace / 2 + half, trace / 2 - half
    assert 0.99 < float(second.min()) <= float(first.max()) < 5.01
    assert float(first.mean()) == pytest.approx(3.0, abs=0.08)  # of U[1, 5]
    assert float(second.mean()) == pytest.approx(2.0, abs=0.08)  # of U[1, l1]
    assert float((moments[:, 1] > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    kernel = random_kernel(4.0, draw)
    assert kernel.shape == (15, 15)
    assert float(kernel.sum()) == pytest.approx(1)
    assert int(kernel.argmax()) == 15 * 7 + 7


def test_symmetry() -> None:
    assert is_symmetric(gaussian(2, 2, 0))
    assert is_symmetric(delta())
    assert not is_symmetric(gaussian(3, 1, 0))
    assert not is_symmetric(gaussian(3, 1, math.pi / 4))
    assert not is_symmetric(torch.ones(3, 5))


def test_texts_name_gaussians() -> None:
    assert torch.equal(parse_gaussian("gaussian:2.0"), gaussian(2, 2, 0))
    assert torch.equal(parse_gaussian("gaussian:4,1,45"), gaussian(4, 1, math.pi / 4))
    for text in ("gaussian:", "gaussian:1,2", "gaussian:a", "gaussian:0", "gaussian:1,1e9,0"):
        with pytest.raises(UsageError, match="kernel gaussian"):
            parse_gaussian(text)


def test_files(tmp_path: Path) -> None:
    kernel = gaussian(2, 1, 0.3).numpy()
    np.save(tmp_path / "k.npy", 7 * kernel)
    np.savetxt(tmp_path / "k.txt", kernel)
    np.savetxt(tmp_path / "k.csv", kernel, delimiter=",")
    savemat(tmp_path / "k.mat", {"kernel": kernel})
    for name in ("k.npy", "k.txt", "k.csv", "k.mat"):
        found, oddities = read_kernel(tmp_path / name)
        np.testing.assert_allclose(found, kernel, atol=1e-12)
        assert oddities == []


def test_oddities_are_told(tmp_path: Path) -> None:
    odd = np.zeros((4, 5))
    odd[0, 0], odd[1, 3] = 2, -0.5
    np.save(tmp_path / "odd.npy", odd)
    _, oddities = read_kernel(tmp_path / "odd.npy")
    text = " ".join(oddities)
    for said in ("even size (4, 5)", "negative taps", "columns"):
        assert said in text


def bad_files(folder: Path) -> dict[str, Path]:
    arrays = {
        "zero": np.zeros((3, 3)),
        "three": np.ones((2, 3, 4)),
        "nan": np.array([[1.0, np.nan]] * 2),
        "large": np.ones((103, 3)),
        "text": np.array([["a", "b"], ["c", "d"]]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (folder / "broken.npy").write_bytes(b"no")
    (folder / "broken.mat").write_bytes(b"no kernel in here" * 20)
    (folder / "broken.txt").write_text("one two")
    savemat(folder / "other.mat", {"psf": np.ones((3, 3))})
    return {path.stem + path.suffix: path for path in folder.iterdir()}


def test_unusable_files(tmp_path: Path) -> None:
    for path in bad_files(tmp_path).values():
        with pytest.raises(DataError, match=path.name.replace(".", r"\.")):
            read_kernel(path)
    with pytest.raises(DataError, match="does not exist"):
        read_kernel(tmp_path / "none.npy")
    with pytest.raises(UsageError, match="unknown"):
        read_kernel(Path("gausian:2"))
