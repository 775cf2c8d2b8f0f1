from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.core.errors import DataError, UsageError
from mlkit.core.metrics import psnr
from mlkit.core.operators.tomography import Beam, FanBeam, Tomography
from mlkit.tasks.denoise.reconstruction.config import CtConfig
from mlkit.tasks.denoise.reconstruction.ct import read_ct

from .helpers import half_turn, phantom

VIEWS, BINS = 40, 47


@pytest.fixture
def sinogram() -> np.ndarray[Any, Any]:
    return Tomography(Beam(half_turn(VIEWS), BINS), (32, 32))(phantom(32))[0].numpy()


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def write(array: Any, name: str = "sinogram.npy") -> Path:
        np.save(tmp_path / name, np.asarray(array))
        return tmp_path / name

    return write


def read(path: Path, **options: Any) -> Any:
    return read_ct(CtConfig.create(sinogram=path, **{"angles": "180", "size": "32", **options}))


def test_a_scan_is_read_and_projected_back(sinogram: Any, save: Any) -> None:
    scan = read(save(sinogram))
    assert scan.data.shape == (1, VIEWS, BINS)
    assert scan.numbers == VIEWS * BINS
    assert psnr(scan.classical, phantom(32)) > 20
    np.testing.assert_allclose(scan.operator(phantom(32))[0], sinogram, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ["degrees", "radians"])
def test_angles_from_a_file(sinogram: Any, save: Any, tmp_path: Path, unit: str) -> None:
    angles = half_turn(VIEWS) if unit == "radians" else np.rad2deg(half_turn(VIEWS))
    np.savetxt(tmp_path / "angles.txt", angles)
    path = save(sinogram)
    scan = read(path, angles=str(tmp_path / "angles.txt"), angle_unit=unit)
    np.testing.assert_allclose(scan.operator.beam.angles, half_turn(VIEWS))
    other = {"degrees": "radians", "radians": "degrees"}[unit]
    with pytest.raises(DataError, match=f"looks like {unit}") as error:
        read(path, angles=str(tmp_path / "angles.txt"), angle_unit=other)
    assert "--angle-unit radians" in error.value.hint


def test_angles_must_be_there_and_as_many_as_views(
    sinogram: Any, save: Any, tmp_path: Path
) -> None:
    path = save(sinogram)
    with pytest.raises(UsageError, match="angles of the views are missing"):
        read(path, angles=None)
    with pytest.raises(UsageError, match="within 360"):
        read(path, angles="720")
    np.savetxt(tmp_path / "a.txt", np.arange(BINS) * 4.0)
    with pytest.raises(DataError, match=f"{BINS} angles, the sinogram has {VIEWS}") as error:
        read(path, angles=str(tmp_path / "a.txt"))
    assert "--transpose" in error.value.hint
    np.savetxt(tmp_path / "a.txt", np.arange(7) * 20.0)
    with pytest.raises(DataError, match="7 angles") as error:
        read(path, angles=str(tmp_path / "a.txt"))
    assert "one angle per row" in error.value.hint


def test_other_layouts(sinogram: Any, save: Any) -> None:
    turned = read(save(sinogram.T), transpose=True)
    np.testing.assert_array_equal(turned.data[0], sinogram)
    volume = save(np.stack([sinogram, 2 * sinogram]))
    assert read(volume).data.shape == (2, VIEWS, BINS)
    np.testing.assert_array_equal(read(volume, slice_=1).data[0], 2 * sinogram)
    with pytest.raises(DataError, match="no slice 2"):
        read(volume, slice_=2)
    with pytest.raises(DataError, match="two axes"):
        read(save(sinogram[0]))
    with pytest.raises(DataError, match="complex"):
        read(save(sinogram * 1j))


def test_the_size_and_the_pixel_have_sensible_defaults(sinogram: Any, save: Any) -> None:
    assert read(save(sinogram), size=None).operator.image_shape == (BINS, BINS)
    half = read(save(sinogram), size=None, pixel=0.5)
    assert half.operator.image_shape == (2 * BINS, 2 * BINS)
    assert read(save(sinogram), size="20x30").operator.image_shape == (20, 30)
    fan = {"geometry": "fan", "source_distance": 100.0, "detector_distance": 200.0}
    scan = read(save(sinogram), size=None, angles="360", **fan)
    assert scan.operator.pixel == 0.5
    assert scan.operator.image_shape == (46, 46)
    assert isinstance(scan.operator.beam, FanBeam)


def test_geometries_that_cannot_be(sinogram: Any, save: Any) -> None:
    path = save(sinogram)
    with pytest.raises(UsageError, match="needs --source-distance"):
        read(path, geometry="fan")
    with pytest.raises(UsageError, match="has no source distance"):
        read(path, source_distance=5.0)
    with pytest.raises(UsageError, match="impossible"):
        read(path, geometry="fan", source_distance=50.0, detector_distance=40.0)
    with pytest.raises(UsageError, match="lies inside the image"):
        read(path, geometry="fan", source_distance=20.0, detector_distance=400.0, pixel=1.0)
    with pytest.raises(UsageError, match="not on the detector"):
        read(path, centre=90.0)
    with pytest.raises(UsageError, match="matrix of up to"):
        read(save(np.ones((2000, 2000)) * [[0, *[1] * 1998, 0]]), size="2000")


@pytest.mark.parametrize("kind", ["number", "file", "repetitions", "dark"])
def test_counts_become_line_integrals(sinogram: Any, save: Any, tmp_path: Path, kind: str) -> None:
    sinogram = sinogram / 10
    bins = 1000 + 10 * np.arange(BINS)
    flat: Any = 5000.0 if kind == "number" else bins
    counts = flat * np.exp(-sinogram)
    options: dict[str, Any] = {"flat": "5000"}
    if kind != "number":
        field = np.stack([bins - 1, bins + 1]) if kind == "repetitions" else bins
        extra = 100 if kind == "dark" else 0
        np.save(tmp_path / "flat.npy", field + extra)
        options = {"flat": str(tmp_path / "flat.npy")}
        if kind == "dark":
            counts, options["dark"] = counts + 100, "100"
    scan = read(save(counts), **options)
    np.testing.assert_allclose(scan.data[0], sinogram, atol=2e-6)


def test_counts_without_a_flat_field_are_recognised(sinogram: Any, save: Any) -> None:
    counts = 5000 * np.exp(-sinogram / 10)
    with pytest.raises(DataError, match="like photon counts") as error:
        read(save(counts.astype(np.uint16)))
    assert "--flat" in error.value.hint
    with pytest.raises(DataError, match="line integrals are not negative"):
        read(save(-sinogram))
    with pytest.raises(UsageError, match="--dark needs --flat"):
        read(save(sinogram), dark="3")
    with pytest.raises(DataError, match="not brighter than the dark"):
        read(save(counts), flat="10", dark="20")
    with pytest.raises(DataError, match="counts are 0 or less"):
        read(save(counts), flat="9000", dark="4500")
    with pytest.raises(DataError, match="has shape"):
        read(save(counts), flat=str(save(np.ones(5), "flat.npy")))
    few = counts.copy()
    few[0, 0] = 0  # a dead pixel in one view is no reason to stop
    assert read(save(few), flat="5000").data.isfinite().all()


def test_data_exchange_files(sinogram: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    counts = 100 + 4000 * np.exp(-np.stack([sinogram, sinogram / 2], axis=1) / 10)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = counts  # (angles, slices, bins)
        file["exchange/data_white"] = np.full((3, 2, BINS), 4100.0)
        file["exchange/data_dark"] = np.full((3, 2, BINS), 100.0)
        file["exchange/theta"] = np.rad2deg(half_turn(VIEWS))
    both = read(tmp_path / "scan.h5", angles=None)
    np.testing.assert_allclose(both.data[1], sinogram / 20, atol=1e-5)
    one = read(tmp_path / "scan.h5", angles=None, slice_=0)
    np.testing.assert_allclose(one.data[0], sinogram / 10, atol=1e-5)
    np.testing.assert_allclose(one.operator.beam.angles, half_turn(VIEWS))
