from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from mlkit.core.errors import DataError, UsageError
from mlkit.core.media import write_image
from mlkit.core.options import RunOptions
from mlkit.tasks.denoise.reconstruction.config import CtConfig
from mlkit.tasks.denoise.reconstruction.ct import read_ct
from mlkit.tasks.denoise.reconstruction.simulate import (
    coil_maps,
    random_columns,
    simulate_kspace,
    simulate_sinogram,
)
from mlkit.tasks.denoise.reconstruction.simulation import KspaceConfig, SinogramConfig

from .helpers import phantom


def test_the_phantom_is_that_of_scikit_image() -> None:
    peer = resize(shepp_logan_phantom(), (100, 100), anti_aliasing=True)
    assert np.abs(phantom(100)[0, 0].numpy() - peer).mean() < 0.02


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_a_simulated_scan_is_read_back(tmp_path: Path, geometry: str) -> None:
    fan = {"source_distance": 80.0, "detector_distance": 150.0, "span": 360.0}
    options: dict[str, Any] = {"geometry": geometry, **(fan if geometry == "fan" else {})}
    config = SinogramConfig(image="phantom", size="32", views=24, noise=0, out=tmp_path, **options)
    result = simulate_sinogram(config)
    options.pop("span", None)
    scan = read_ct(
        CtConfig(
            sinogram=tmp_path / "sinogram.npy",
            angles=str(tmp_path / "angles.txt"),
            size="32",
            pixel=result.metrics["pixel"],
            **options,
        )
    )
    torch.testing.assert_close(scan.operator(phantom(32)), scan.data, rtol=1e-4, atol=1e-4)
    assert f"--geometry {geometry}" in result.notes[0] or geometry == "parallel"
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), phantom(32)[0, 0])


def test_noise_and_seeds(tmp_path: Path) -> None:
    def scan(name: str, seed: int, noise: float) -> np.ndarray[Any, Any]:
        config = SinogramConfig(
            image="phantom", size="32", views=40, noise=noise, out=tmp_path / name
        )
        simulate_sinogram(config, RunOptions(seed=seed))
        return np.load(tmp_path / name / "sinogram.npy")

    clean, one, other, again = scan("a", 0, 0), scan("b", 0, 0.1), scan("c", 1, 0.1), None
    again = scan("d", 0, 0.1)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert (one - clean).std() == pytest.approx(0.1 * clean.max(), rel=0.1)


@pytest.mark.parametrize("coils", [1, 3])
def test_simulated_k_space(tmp_path: Path, coils: int) -> None:
    config = KspaceConfig(image="phantom", size="32x48", coils=coils, noise=0.01, out=tmp_path)
    simulate_kspace(config)
    data, mask = np.load(tmp_path / "kspace.npy"), np.load(tmp_path / "mask.npy")
    assert data.shape == ((32, 48) if coils == 1 else (3, 32, 48))
    assert data.dtype == np.complex64
    assert ((data != 0).any(axis=tuple(range(data.ndim - 1))) == (mask != 0)).all()
    assert (tmp_path / "coils.npy").exists() == (coils > 1)
    with pytest.raises(DataError, match="exists already"):
        simulate_kspace(config)


def test_random_columns_keep_the_centre_and_the_share() -> None:
    masks = [random_columns(320, 4, 0.08, seed) for seed in range(40)]
    assert all(float(mask[147:173].min()) == 1 for mask in masks)
    assert float(torch.stack(masks).mean()) == pytest.approx(0.25, rel=0.1)
    with pytest.raises(UsageError, match="alone is more"):
        random_columns(320, 8, 0.2, 0)


def test_coil_maps_see_everything_together() -> None:
    maps = coil_maps(5, (16, 20))
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(16, 20))
    assert float((maps.abs() - maps.abs().mean((1, 2), keepdim=True)).std()) > 0.1


def test_images_that_cannot_be_measured(tmp_path: Path) -> None:
    write_image(tmp_path / "c.png", torch.rand(3, 16, 16))
    with pytest.raises(DataError, match="in colour"):
        simulate_kspace(KspaceConfig(image=str(tmp_path / "c.png"), out=tmp_path))
    write_image(tmp_path / "g.png", torch.rand(1, 16, 16))
    with pytest.raises(UsageError, match="has 16x16 pixels"):
        simulate_kspace(KspaceConfig(image=str(tmp_path / "g.png"), size="32", out=tmp_path))
    with pytest.raises(UsageError, match="lies inside the image"):
        simulate_sinogram(
            SinogramConfig(
                image="phantom",
                geometry="fan",
                source_distance=20.0,
                detector_distance=50.0,
                out=tmp_path,
            )
        )
