"""Whole jobs from Python: files in, files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, sparse

from mlkit.core.arrays import read_array
from mlkit.core.errors import CheckpointError, DataError, UsageError
from mlkit.core.progress import Silent
from mlkit.tasks import denoise
from mlkit.tasks.denoise.reconstruction.config import (
    CtConfig,
    MatrixConfig,
    MriConfig,
    PictureConfig,
)
from mlkit.tasks.denoise.reconstruction.simulation import KspaceConfig, SinogramConfig

from .helpers import phantom, prior_file

FAST = {"tol": 1e-4, "iterations": 1000}


@pytest.fixture
def scan(tmp_path: Path) -> dict[str, Any]:
    """A simulated CT scan, and options to reconstruct it with a small prior."""
    denoise.simulate_sinogram(
        SinogramConfig(image="phantom", size="32", views=30, noise=0.01, out=tmp_path / "scan")
    )
    return {
        "sinogram": tmp_path / "scan" / "sinogram.npy",
        "angles": str(tmp_path / "scan" / "angles.txt"),
        "size": "32",
        "reference": tmp_path / "scan" / "image.npy",
        "weights": prior_file(tmp_path),
        "out": tmp_path / "image.npy",
        **FAST,
    }


@pytest.mark.parametrize("method", ["crr", "tv", "fbp"])
def test_ct_by_every_method(scan: dict[str, Any], method: str) -> None:
    result = denoise.reconstruct_ct(CtConfig(**scan, method=method))
    metrics = result.metrics
    image = np.load(scan["out"])
    assert image.dtype == np.float32
    assert image.shape == (32, 32)
    error = np.square(image.astype(float) - phantom(32)[0, 0].numpy()).mean()
    peak = float(phantom(32).max())
    assert metrics["psnr"] == pytest.approx(10 * np.log10(peak**2 / error), rel=1e-4)
    if method == "fbp":
        assert metrics["psnr"] == metrics["psnr_classical"]
    else:
        assert metrics["psnr"] > metrics["psnr_classical"] + 2
        assert metrics["converged"]
        assert image.min() >= 0
        assert metrics["misfit"] < 2 * metrics["expected_misfit"]


def test_mri_with_a_picture_and_a_certificate(tmp_path: Path) -> None:
    denoise.simulate_kspace(
        KspaceConfig(image="phantom", size="32", coils=3, acceleration=2, out=tmp_path / "scan")
    )
    config = MriConfig(
        kspace=tmp_path / "scan" / "kspace.npy",
        mask=tmp_path / "scan" / "mask.npy",
        coils=str(tmp_path / "scan" / "coils.npy"),
        reference=tmp_path / "scan" / "image.npy",
        weights=prior_file(tmp_path),
        plot=tmp_path / "pair.png",
        out=tmp_path / "image.png",
        window="0,1.5",
        certify=True,
        **FAST,
    )
    result = denoise.reconstruct_mri(config)
    assert result.metrics["psnr"] > result.metrics["psnr_classical"] + 2
    assert result.metrics["certificate"]["convex"]
    assert result.notes == ("shown: black is 0, white 1.5",)
    with Image.open(tmp_path / "image.png") as image, Image.open(tmp_path / "pair.png") as pair:
        assert image.size == (32, 32)
        assert pair.size == (66, 32)
        assert 100 < np.asarray(image).max() <= 255 / 1.5
    zero = config.model_copy(update={"method": "zero-filled", "overwrite": True})
    assert denoise.reconstruct_mri(zero).metrics["psnr"] == result.metrics["psnr_classical"]


def test_remarks_reach_the_user(tmp_path: Path) -> None:
    columns = {"acceleration": 2, "central": 0.4}
    denoise.simulate_kspace(
        KspaceConfig(image="phantom", size="32", out=tmp_path / "scan", **columns)
    )
    data = np.load(tmp_path / "scan" / "kspace.npy") * np.exp(1j)
    np.save(tmp_path / "turned.npy", data)
    listener = Silent()
    config = MriConfig(
        kspace=tmp_path / "turned.npy", method="zero-filled", out=tmp_path / "image.npy"
    )
    denoise.reconstruct_mri(config, progress=listener)
    assert "is imaginary" in listener.warnings[0]


@pytest.mark.parametrize("method", ["crr", "tv"])
def test_a_blurred_picture_becomes_sharp(tmp_path: Path, method: str) -> None:
    kernel = np.ones((3, 3)) / 9
    truth = phantom(48)[0, 0].numpy()
    noise = 0.005 * np.random.default_rng(0).standard_normal(truth.shape)
    blurred = ndimage.convolve(truth, kernel, mode="reflect") + noise
    levels = (np.clip(blurred, 0, 1) * 65535).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "blurred.png")
    np.save(tmp_path / "kernel.npy", kernel)
    np.save(tmp_path / "truth.npy", truth)
    config = PictureConfig(
        image=tmp_path / "blurred.png",
        kernel=tmp_path / "kernel.npy",
        reference=tmp_path / "truth.npy",
        weights=prior_file(tmp_path),
        method=method,
        noise=0.005 * 255,
        out=tmp_path / "sharp.png",
        **FAST,
    )
    result = denoise.reconstruct_image(config)
    assert result.metrics["psnr"] > result.metrics["psnr_classical"] + 2
    assert result.metrics["noise"] == pytest.approx(0.005)
    with Image.open(tmp_path / "sharp.png") as image:
        assert image.size == (48, 48)
        assert image.mode.startswith("I")  # 16 bit stay 16 bit


def test_missing_pixels_of_a_colour_picture_come_back(tmp_path: Path) -> None:
    truth = np.stack([phantom(48)[0, 0].numpy() * c for c in (1.0, 0.5, 0.8)], axis=-1)
    seen = np.random.default_rng(0).random((48, 48)) > 0.4
    Image.fromarray((255 * truth).astype(np.uint8)).save(tmp_path / "truth.png")
    Image.fromarray((255 * truth * seen[..., None]).astype(np.uint8)).save(tmp_path / "holes.png")
    np.save(tmp_path / "mask.npy", seen)
    config = PictureConfig(
        image=tmp_path / "holes.png",
        mask=tmp_path / "mask.npy",
        reference=tmp_path / "truth.png",
        weights=prior_file(tmp_path),
        noise=1.0,
        out=tmp_path / "whole.png",
        **FAST,
    )
    result = denoise.reconstruct_image(config)
    assert result.metrics["psnr"] > result.metrics["psnr_classical"]
    assert [item["converged"] for item in result.metrics["slices"]] == [True] * 3
    with Image.open(tmp_path / "whole.png") as image:
        assert image.mode == "RGB"


def test_an_explicit_matrix(tmp_path: Path) -> None:
    matrix = sparse.random(300, 256, 0.2, random_state=0, format="csr")
    truth = phantom(16)[0, 0].numpy()
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "y.npy", matrix @ truth.ravel())
    sparse.save_npz(tmp_path / "A.npz", matrix)
    config = MatrixConfig(
        data=tmp_path / "y.npy",
        operator=tmp_path / "A.npz",
        shape="16x16",
        reference=tmp_path / "truth.npy",
        weights=prior_file(tmp_path),
        certify=True,
        out=tmp_path / "image.tif",
        **FAST,
    )
    result = denoise.reconstruct_matrix(config)
    assert result.metrics["psnr"] > result.metrics["psnr_classical"] + 3
    assert result.metrics["certificate"]["distance"] is not None
    assert read_array(tmp_path / "image.tif").shape == (16, 16)


def test_a_volume_is_reconstructed_slice_by_slice(scan: dict[str, Any], tmp_path: Path) -> None:
    one = np.load(scan["sinogram"])
    np.save(tmp_path / "volume.npy", np.stack([one, one]))
    options = {**scan, "sinogram": tmp_path / "volume.npy", "reference": None, "method": "tv"}
    result = denoise.reconstruct_ct(CtConfig(**options))
    volume = np.load(scan["out"])
    assert volume.shape == (2, 32, 32)
    assert len(result.metrics["slices"]) == 2
    np.testing.assert_array_equal(volume[1], volume[0])
    picture = {**options, "out": tmp_path / "volume.png"}
    with pytest.raises(DataError, match=r"2 slices, a \.png shows one"):
        denoise.reconstruct_ct(CtConfig(**picture))


def test_streams(scan: dict[str, Any]) -> None:
    result = denoise.reconstruct_ct(CtConfig(**{**scan, "out": Path("-"), "method": "fbp"}))
    assert result.outputs == {}
    assert result.stream is not None
    assert result.stream.startswith(b"\x93NUMPY")


def test_what_cannot_work_fails_before_the_work(scan: dict[str, Any], tmp_path: Path) -> None:
    def refuse(error: type[Exception], reason: str, **changes: Any) -> None:
        with pytest.raises(error, match=reason):
            denoise.reconstruct_ct(CtConfig(**{**scan, **changes}))
        assert not scan["out"].exists()

    refuse(UsageError, "must end in", out=tmp_path / "image.xyz")
    refuse(DataError, "does not exist", reference=tmp_path / "none.npy")
    np.save(tmp_path / "small.npy", np.ones((8, 8)))
    refuse(DataError, "is 8x8, the reconstruction 32x32", reference=tmp_path / "small.npy")
    refuse(CheckpointError, "does not exist", weights=tmp_path / "none.safetensors")
    refuse(DataError, "not converged after 2 iterations", iterations=2)
    dark = {"angles": "180", "reference": None, "intensity": None}
    refuse(DataError, "no positive values", sinogram=_hollow(tmp_path), **dark)


def _hollow(folder: Path) -> Path:
    """A sinogram whose back-projection is negative almost everywhere."""
    sinogram = np.zeros((30, 400))
    sinogram[:, :2] = 1
    np.save(folder / "hollow.npy", sinogram)
    return folder / "hollow.npy"


def test_noise_free_data_get_a_least_noise(scan: dict[str, Any], tmp_path: Path) -> None:
    flat = torch.ones(30, 47).numpy() * np.hanning(47)
    np.save(tmp_path / "smooth.npy", flat)
    options = {**scan, "sinogram": tmp_path / "smooth.npy", "angles": "180", "reference": None}
    result = denoise.reconstruct_ct(CtConfig(**options))
    assert result.metrics["noise"] >= 1e-4 * np.sqrt(np.square(flat).mean())
    assert result.metrics["lambda"] > 0
