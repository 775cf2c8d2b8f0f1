from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.transform import radon
from torch import Tensor

from mlkit.core.operators.tomography import Beam, FanBeam, Tomography


def angles(count: int, span: float = math.pi) -> np.ndarray:
    return np.arange(count) * span / count


def disc(size: int, radius: float, x: float = 0, y: float = 0, fine: int = 8) -> Tensor:
    """A disc around (x, y), anti-aliased by `fine` x `fine` samples a pixel."""
    places = (np.arange(size * fine) + 0.5) / fine - size / 2
    inside = (places[None] - x) ** 2 + (places[::-1, None] - y) ** 2 <= radius**2
    share = inside.reshape(size, fine, size, fine).mean((1, 3))
    return torch.from_numpy(share).float()[None, None]


def smooth(size: int, pixel: float = 1.0) -> Tensor:
    """Two soft blobs within a circle of 32 units, zero outside."""
    y, x = pixel * (np.mgrid[:size, :size] - (size - 1) / 2)
    image = np.exp(-((y + 6) ** 2 + 2 * (x - 5) ** 2) / 60)
    image += 0.7 * np.exp(-((y - 10) ** 2 + (x + 8) ** 2) / 30)
    return torch.from_numpy(image * (x**2 + y**2 < 31**2)).float()[None, None]


def chord(offset: np.ndarray, radius: float) -> np.ndarray:
    return 2 * np.sqrt(np.maximum(0, radius**2 - offset**2))


def test_a_centred_disc_looks_the_same_from_everywhere_and_like_its_chords() -> None:
    beam = Beam(angles(18), 91)
    sinogram = Tomography(beam, (64, 64))(disc(64, 20))[0].numpy()
    expected = chord(beam.offsets, 20)
    inner = np.abs(beam.offsets) < 18  # at the rim the chord is infinitely steep
    assert np.abs(sinogram - expected)[:, inner].max() < 0.02 * expected.max()
    assert np.std(sinogram, axis=0).max() < 0.02 * expected.max()
    # Mass is the same in every view.
    np.testing.assert_allclose(sinogram.sum(1), math.pi * 400, rtol=2e-3)


@pytest.mark.parametrize("shape", ["flat", "arc"])
def test_a_disc_in_a_fan_beam_is_its_chords(shape: str) -> None:
    """The disc stands off the axis: sign and orientation of angles and bins matter."""
    beam = FanBeam(angles(16, 2 * math.pi), 121, 1.2, 58.5, 90.0, 160.0, shape)  # type: ignore[arg-type]
    x, y, radius = 9.0, -6.0, 14.0
    sinogram = Tomography(beam, (64, 64))(disc(64, radius, x, y))[0].numpy()
    for view, angle in enumerate(beam.angles):
        points, units = beam.rays(angle)
        to_disc = np.array([x, y]) - points
        offset = to_disc[:, 0] * units[:, 1] - to_disc[:, 1] * units[:, 0]
        inner = np.abs(offset) < radius - 2
        error = np.abs(sinogram[view] - chord(offset, radius))
        assert error[inner].max() < 0.03 * 2 * radius
        assert error[np.abs(offset) > radius + 2].max() < 1e-6


def test_lengths_are_physical() -> None:
    """The same object on a grid twice as fine, in millimetres, casts the same shadow."""
    coarse = Tomography(Beam(angles(6), 65, 1.0), (64, 64), 1.0)(smooth(64))
    fine = Tomography(Beam(angles(6), 65, 1.0), (128, 128), 0.5)(smooth(128, 0.5))
    assert float((coarse - fine).norm()) < 0.005 * float(fine.norm())


def test_parallel_beam_is_radon_of_scikit_image() -> None:
    # An odd size puts both rotation centres on the same pixel.
    degrees = np.arange(0, 180, 7.5)
    expected = radon(smooth(65)[0, 0].double().numpy(), degrees, circle=True).T
    found = Tomography(Beam(np.deg2rad(degrees), 65), (65, 65))(smooth(65))[0].numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.005


def test_the_axis_may_fall_on_any_bin() -> None:
    whole, image = angles(9), disc(32, 8, 3, 2)
    centred = Tomography(Beam(whole, 45), (32, 32))(image)
    shifted = Tomography(Beam(whole, 49, centre=20.0), (32, 32))(image)
    torch.testing.assert_close(shifted[..., :43], centred[..., 2:])


@pytest.mark.parametrize("shape", ["flat", "arc"])
def test_a_far_source_makes_the_beam_parallel(shape: str) -> None:
    image = smooth(65)
    whole = angles(12, 2 * math.pi)
    parallel = Tomography(Beam(whole, 65), (65, 65))(image)
    errors = []
    for distance in (1e2, 1e3, 1e4):
        fan = FanBeam(whole, 65, 2.0, None, distance, 2 * distance, shape)  # type: ignore[arg-type]
        difference = Tomography(fan, (65, 65))(image) - parallel
        errors.append(float(difference.norm() / parallel.norm()))
    assert errors[0] > 8 * errors[1] > 64 * errors[2]
    assert errors[2] < 1e-3


def test_views_are_joseph_sums() -> None:
    """One ray of slope 1/2 through a 3 x 3 image, by hand."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    angle = math.atan2(2, -1)  # the ray (x cos + y sin = 0) has direction (2, 1)
    value = Tomography(Beam(np.array([angle]), 1), (3, 3))(image)
    # At columns -1, 0, 1 the ray is at heights -0.5, 0, 0.5; steps are sqrt(1.25) long.
    expected = (0.5 * (3 + 6) + 4 + 0.5 * (2 + 5)) * math.sqrt(1.25)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_impossible_geometries_are_refused() -> None:
    with pytest.raises(ValueError, match="lies inside the image"):
        Tomography(FanBeam(angles(4), 9, 1.0, None, 10.0, 30.0), (32, 32))
    with pytest.raises(ValueError, match="smaller than source to detector"):
        FanBeam(angles(4), 9, 1.0, None, 40.0, 30.0)
    with pytest.raises(ValueError, match="wider than 180"):
        FanBeam(angles(4), 99, 10.0, None, 40.0, 60.0, "arc")
    with pytest.raises(ValueError, match="no detector"):
        Beam(angles(4), 0)
    with pytest.raises(ValueError, match="finite"):
        Beam(np.array([0.0, np.nan]), 5)
    with pytest.raises(ValueError, match="pixels of size 0"):
        Tomography(Beam(angles(4), 9), (8, 8), 0)
