from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlkit.tasks.upscale.blur import BLOCK, estimate_kernel, features, fit_estimator
from mlkit.tasks.upscale.degradation import Degradation
from mlkit.tasks.upscale.kernels import covariance, gaussian


def cloud(seed: int, side: int = 128) -> torch.Tensor:
    """A picture whose power falls as 1 / f^2, like that of photographs; bytes (3, H, W)."""
    random = np.random.default_rng(seed)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    f[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(random.normal(size=(side, side))) / f).real
    grey = np.clip(128 + 40 * field / field.std(), 0, 255)
    return torch.from_numpy(np.stack([grey] * 3)).byte()


@pytest.fixture(scope="module")
def coefficients() -> torch.Tensor:
    return fit_estimator([cloud(i) for i in range(6)], 2, "bicubic", samples=150)


@pytest.mark.parametrize(
    ("first", "second", "degrees"),
    [(0.5, 0.5, 0), (2, 2, 0), (4, 4, 0), (4.5, 1, 30), (4.5, 1, 120)],
)
def test_known_blurs_are_found(
    coefficients: torch.Tensor, first: float, second: float, degrees: float
) -> None:
    kernel = gaussian(first, second, math.radians(degrees))
    found = []
    for seed in range(10, 14):
        sharp = cloud(seed)[None].float() / 255
        small = Degradation(kernel.float(), 2, "bicubic")(sharp).clamp(0, 1)
        found.append(covariance(estimate_kernel(small[0], coefficients, 2)))
    mean = torch.stack(found).mean(0)
    torch.testing.assert_close(mean, covariance(kernel), rtol=0, atol=0.5)


def test_features_turn_with_the_image() -> None:
    image = cloud(0)[0, :96, :64].double() / 255
    a, b = features(image), features(image.T)
    directions = a[:-1].reshape(8, 4), b[:-1].reshape(8, 4)
    # Swapping rows and columns mirrors the directions 0, 45, 90, 135 degrees at 45.
    torch.testing.assert_close(directions[0][:, [2, 1, 0, 3]], directions[1])
    assert float(a[-1]) == 1
    torch.testing.assert_close(features(0.5 * image)[:-1], a[:-1], atol=0.02, rtol=0)


def test_small_images(coefficients: torch.Tensor) -> None:
    kernel = estimate_kernel(torch.rand(3, BLOCK, BLOCK), coefficients, 2)
    assert float(kernel.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="too small"):
        estimate_kernel(torch.rand(3, BLOCK - 1, 50), coefficients, 2)
    assert fit_estimator([torch.zeros(3, 40, 40, dtype=torch.uint8)], 2, "direct").shape == (0, 3)
