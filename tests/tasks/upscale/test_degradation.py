from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mlkit.tasks.upscale.backprojection import back_project, network_input
from mlkit.tasks.upscale.degradation import (
    Degradation,
    Sampling,
    bicubic,
    crop_to_multiple,
    enlarge,
    resize,
    turned,
    turned_back,
)
from mlkit.tasks.upscale.kernels import gaussian
from mlkit.tasks.upscale.luma import luma, scores

from .helpers import picture


def test_direct_sampling_is_correlation_and_every_second_pixel() -> None:
    kernel = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel /= kernel.sum()
    image = picture(20, 24).double()[None]
    found = Degradation(kernel, 2, "direct")(image)
    for plane, small in zip(image[0], found[0], strict=True):
        wanted = ndimage.correlate(plane.numpy(), kernel.numpy(), mode="reflect")[::2, ::2]
        np.testing.assert_allclose(small, wanted, atol=1e-12)


def test_bicubic_sampling_blurs_at_full_size_first() -> None:
    image, kernel = picture(24, 30).double()[None], gaussian(1.3, 1.3, 0)
    blurred = np.stack([ndimage.correlate(p, kernel.numpy(), mode="reflect") for p in image[0]])
    wanted = resize(torch.from_numpy(blurred)[None], 12, 15)
    torch.testing.assert_close(Degradation(kernel, 2, "bicubic")(image), wanted)
    torch.testing.assert_close(bicubic(3)(image), resize(image, 8, 10))


@pytest.mark.parametrize("sampling", ["direct", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3])
def test_operators_have_exact_adjoints(sampling: Sampling, scale: int) -> None:
    operator = Degradation(gaussian(3, 1, 0.4), scale, sampling).operator(12, 18)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 12, 18, generator=draw, dtype=torch.float64)
    y = torch.randn(operator(x).shape, generator=draw, dtype=torch.float64)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


def test_no_irregular_sampling() -> None:
    with pytest.raises(ValueError, match="not multiples of 2"):
        bicubic(2)(torch.rand(1, 3, 11, 12))
    assert crop_to_multiple(torch.rand(1, 3, 11, 13), 3).shape == (1, 3, 9, 12)


@pytest.mark.parametrize("sampling", ["direct", "bicubic"])
def test_enlarging_puts_pixels_where_they_came_from(sampling: Sampling) -> None:
    x = torch.arange(48.0, dtype=torch.float64)
    ramp = (x / 48).expand(1, 3, 48, 48)
    kernel = gaussian(1, 1, 0, 5)
    small = Degradation(kernel, 2, sampling)(ramp)
    inside = (..., slice(12, -12), slice(12, -12))
    torch.testing.assert_close(enlarge(small, 2, sampling)[inside], ramp[inside])
    if sampling == "direct":  # centred enlarging is half a pixel off
        moved = (enlarge(small, 2) - ramp)[inside] * 48
        torch.testing.assert_close(moved, torch.full_like(moved, -0.5))


def test_turns_are_eight_and_go_back() -> None:
    image = torch.rand(1, 3, 4, 6)
    seen = {tuple(turned(image, turn).flatten().tolist()) for turn in range(8)}
    assert len(seen) == 8
    assert all(torch.equal(turned_back(turned(image, t), t), image) for t in range(8))


@pytest.mark.parametrize("sampling", ["direct", "bicubic"])
def test_back_projection_explains_the_small_image(sampling: Sampling) -> None:
    truth = picture(64, 64)[None]
    degradation = Degradation(gaussian(2, 2, 0).float(), 2, sampling)
    low = degradation(truth)
    image, residuals = enlarge(low, 2, sampling).clamp(0, 1), []
    for _ in range(6):
        residuals.append(float((low - degradation(image)).norm()))
        image = back_project(image, low, degradation, 1)
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.4 * residuals[0]
    assert scores(image, truth, 2)[0] > scores(enlarge(low, 2, sampling), truth, 2)[0] + 0.4


def test_the_papers_input_is_a_centred_enlargement() -> None:
    low, blur = picture(16, 20)[None], Degradation(gaussian(2, 2, 0).float(), 2, "direct")
    assert torch.equal(network_input(low, blur, aligned=False), enlarge(low, 2).clamp(0, 1))
    first = network_input(low, blur)
    assert torch.equal(first, enlarge(low, 2, "direct").clamp(0, 1))
    assert torch.equal(network_input(low, blur, rounds=2), back_project(first, low, blur, 2))


def test_scores_follow_the_papers_protocol() -> None:
    a, b = picture(seed=1)[None], picture(seed=2)[None]

    def brightness(image: torch.Tensor) -> np.ndarray:
        levels = np.round(image[0].numpy() * 255) / 255
        y = 65.481 * levels[0] + 128.553 * levels[1] + 24.966 * levels[2] + 16
        return np.round(y)[3:-3, 3:-3]

    difference = brightness(a) - brightness(b)
    wanted = 20 * np.log10(255 / np.sqrt((difference**2).mean()))
    psnr, ssim = scores(a, b, 3)
    assert psnr == pytest.approx(wanted, abs=1e-3)
    from skimage.metrics import structural_similarity

    oracle = structural_similarity(
        brightness(a),
        brightness(b),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim == pytest.approx(oracle, abs=2e-3)
    assert luma(torch.ones(1, 3, 2, 2)).unique().tolist() == [235.0]
    assert luma(torch.zeros(1, 3, 2, 2)).unique().tolist() == [16.0]
