from __future__ import annotations

import math

import pytest
import torch

from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.operators.tomography import Beam, Tomography
from mlkit.tasks.denoise.reconstruction.noise import kspace_noise, patchy_noise, sinogram_noise

from .helpers import half_turn, phantom, random


def test_the_noise_of_a_sinogram() -> None:
    clean = Tomography(Beam(half_turn(40), 191), (128, 128))(phantom(128))
    for sigma in (2.0, 5.0):
        found = sinogram_noise(clean + sigma * random(*clean.shape))
        assert found == pytest.approx(sigma, rel=0.1)


def test_the_noise_of_k_space() -> None:
    mask = (random(128) > 0).float().expand(128, 128)
    clean = MaskedFourier(mask, (128, 128))(phantom(128))
    noise = torch.complex(random(*clean.shape), random(*clean.shape, seed=1))
    found = kspace_noise(clean + 0.1 * noise * mask, mask)
    assert found == pytest.approx(0.1, rel=0.1)
    centre = torch.zeros(128, 128)
    centre[56:72, 56:72] = 1
    assert math.isnan(kspace_noise(clean, centre))


def test_the_noise_of_a_picture_with_holes() -> None:
    picture = phantom(128) + 0.1 * random(1, 1, 128, 128)
    seen = (random(128, 128, seed=1) > -0.5).float()
    assert patchy_noise(picture * seen, seen) == pytest.approx(0.1, rel=0.1)
    checkers = torch.eye(2).repeat(64, 64)
    assert math.isnan(patchy_noise(picture, checkers))
