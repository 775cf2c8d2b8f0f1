from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.transform import iradon
from torch import Tensor

from mlkit.core.operators.backprojection import filtered_backprojection
from mlkit.core.operators.tomography import Beam, FanBeam, Tomography

SIZE = 64


def blobs(size: int = SIZE, pixel: float = 1.0) -> Tensor:
    """Soft blobs within a circle of 30 units, off the axis, none symmetric."""
    y, x = pixel * (np.mgrid[:size, :size] - (size - 1) / 2)
    image = np.exp(-((y + 6) ** 2 + 2 * (x - 5) ** 2) / 60)
    image += 0.7 * np.exp(-((y - 10) ** 2 + (x + 8) ** 2) / 30)
    return torch.from_numpy(image * (x**2 + y**2 < 30**2)).float()[None, None]


def turn(count: int, degrees: float, start: float = 0.0) -> np.ndarray:
    return np.deg2rad(start + np.arange(count) * degrees / count)


def fan(count: int, degrees: float, shape: str, start: float = 0.0) -> FanBeam:
    bins = 141 if shape == "flat" else 131
    return FanBeam(turn(count, degrees, start), bins, 1.5, bins / 2 - 1, 90.0, 160.0, shape)  # type: ignore[arg-type]


BEAMS = {
    "half turn": (Beam(turn(180, 180), 91), 0.015),
    "full turn": (Beam(turn(360, 360), 91), 0.015),
    "axis off the middle": (Beam(turn(180, 180, 33), 99, centre=41.5), 0.015),
    "narrow bins": (Beam(turn(180, 180), 190, 0.5), 0.01),
    "golden angles": (Beam(np.deg2rad(np.arange(233) * 111.246), 91), 0.02),
    "fan flat": (fan(360, 360, "flat"), 0.02),
    "fan arc": (fan(360, 360, "arc"), 0.02),
    "fan flat short": (fan(240, 240, "flat", 70), 0.02),
    "fan arc short": (fan(240, 240, "arc", 200), 0.02),
    "fan arc long": (fan(300, 300, "arc"), 0.02),
}


@pytest.mark.parametrize("name", BEAMS)
def test_it_inverts_the_projection(name: str) -> None:
    beam, tolerance = BEAMS[name]
    sinogram = Tomography(beam, (SIZE, SIZE))(blobs())
    found = filtered_backprojection(sinogram, beam, (SIZE, SIZE))
    error = float((found - blobs()).norm() / blobs().norm())
    assert error < tolerance


def test_values_are_per_unit_of_length() -> None:
    beam = Beam(turn(180, 180), 191, 0.5)
    image = blobs(128, 0.5)
    sinogram = Tomography(beam, (128, 128), 0.5)(image)
    found = filtered_backprojection(sinogram, beam, (128, 128), 0.5)
    assert float((found - image).norm() / image.norm()) < 0.01


@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_parallel_beams_agree_with_scikit_image(window: str) -> None:
    beam = Beam(turn(60, 180), 65)
    sinogram = Tomography(beam, (65, 65))(blobs(65)) + 0.1 * torch.randn(
        1, 60, 65, generator=torch.Generator().manual_seed(0)
    )
    peer = iradon(
        sinogram[0].T.double().numpy(), np.rad2deg(beam.angles), filter_name=window, circle=True
    )
    found = filtered_backprojection(sinogram, beam, (65, 65), window=window)[0, 0].numpy()  # type: ignore[arg-type]
    y, x = np.mgrid[:65, :65] - 32
    inside = x**2 + y**2 < 31**2
    assert np.linalg.norm((found - peer)[inside]) < 0.01 * np.linalg.norm(peer[inside])


def test_it_is_linear_in_the_batch() -> None:
    beam = Beam(turn(12, 180), 23)
    sinograms = torch.randn(3, 12, 23, generator=torch.Generator().manual_seed(0))
    together = filtered_backprojection(sinograms, beam, (16, 16))
    alone = [filtered_backprojection(one[None], beam, (16, 16)) for one in sinograms]
    torch.testing.assert_close(together, torch.cat(alone))
    with pytest.raises(ValueError, match="does not fit"):
        filtered_backprojection(sinograms[:, :5], beam, (16, 16))


def test_a_missing_wedge_is_left_out() -> None:
    """With 120 of 180 degrees the edge views must not stand for what nobody saw."""
    beam = Beam(turn(120, 120), 91)
    sinogram = Tomography(beam, (SIZE, SIZE))(blobs())
    found = filtered_backprojection(sinogram, beam, (SIZE, SIZE))
    assert float(found.abs().max()) < 1.5 * float(blobs().max())
    assert math.isclose(float(found.sum()), float(blobs().sum()) * 120 / 180, rel_tol=0.1)
