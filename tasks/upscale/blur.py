"""How was an image blurred? Estimated from how its spectrum falls off.

Spectra of sharp photographs are alike up to a constant; a Gaussian blur of covariance C adds
-4 pi^2 f^T C f to the logarithm of the power at frequency f, so C is linear in the log spectrum.
The coefficients are fitted by ridge regression on blurs of known covariance. Not of the paper,
which takes the kernel as given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ...core.progress import Progress, Silent
from ...core.runtime import stream
from .degradation import Degradation, Sampling, crop_to_multiple
from .kernels import covariance, gaussian

BLOCK = 32  # side of the windows whose spectra are averaged; also the smallest image
RADII = torch.linspace(0.06, 0.5, 9)  # edges of the bands, cycles per pixel
DIRECTIONS = 4
SMALLEST = 0.2  # variance in pixels of the large image
RIDGE = 1e-2
CROP = 192  # pixels of a training picture that are looked at


def features(grey: Tensor) -> Tensor:
    """Return the log power in bands of an image (H, W), without its mean; a 1 at the end.

    8 rings of frequencies times 4 directions, averaged over windows of 32 pixels.
    """
    blocks = grey.unfold(0, BLOCK, BLOCK // 2).unfold(1, BLOCK, BLOCK // 2).reshape(-1, BLOCK**2)
    window = torch.hann_window(BLOCK, periodic=False, dtype=grey.dtype)
    window = torch.outer(window, window)
    blocks = blocks - blocks.mean(1, keepdim=True)
    power = torch.fft.fft2(blocks.reshape(-1, BLOCK, BLOCK) * window).abs().square().mean(0)
    bands = _bands().to(grey.dtype) @ power.flatten()
    logs = (bands + 1e-7).log()
    return torch.cat((logs - logs.mean(), logs.new_ones(1)))


@lru_cache
def _bands() -> Tensor:
    """Return the weights (bands, BLOCK^2) that average the power over each band."""
    f = torch.fft.fftfreq(BLOCK)
    y, x = torch.meshgrid(f, f, indexing="ij")
    ring = torch.bucketize(torch.hypot(x, y), RADII) - 1
    angle = (torch.atan2(y, x) / math.pi * DIRECTIONS).round().long() % DIRECTIONS
    rows = [
        ((ring == r) & (angle == d)).flatten().float()
        for r in range(len(RADII) - 1)
        for d in range(DIRECTIONS)
    ]
    masks = torch.stack(rows)
    return masks / masks.sum(1, keepdim=True)


def fit_estimator(
    pictures: Sequence[Tensor],
    scale: int,
    sampling: Sampling,
    seed: int = 0,
    progress: Progress | None = None,
    samples: int = 400,
) -> Tensor:
    """Return coefficients (features, 3) from features to (xx, xy, yy) of the blur.

    `pictures` are bytes (3, H, W), sharp; `samples` blurs are tried on them, their variances drawn
    from [0.2, 2.5 scale], wider than in training the network.
    """
    generator = stream(seed, 12, scale, sampling == "direct")
    rows, targets = [], []
    large = [p for p in pictures if min(p.shape[1:]) >= scale * BLOCK]
    if not large:
        return torch.zeros(0, 3)
    with (progress or Silent()).task(f"estimator of blurs, x{scale} {sampling}", samples) as task:
        for i in range(samples):
            sharp = _random_crop(large[i % len(large)], generator).mean(0, keepdim=True)[None] / 255
            kernel = _random_blur(scale, generator)
            small = Degradation(kernel.float(), scale, sampling)(crop_to_multiple(sharp, scale))
            rows.append(features((small[0, 0].clamp(0, 1) * 255).round() / 255))
            targets.append(covariance(kernel))
            task.advance()
    x, y = torch.stack(rows).double(), torch.stack(targets)
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ y).float()


def _random_crop(picture: Tensor, generator: torch.Generator) -> Tensor:
    height, width = picture.shape[1:]
    y, x = (
        int(torch.randint(max(1, n - CROP + 1), (1,), generator=generator)) for n in (height, width)
    )
    return picture[:, y : y + CROP, x : x + CROP].float()


def _random_blur(scale: int, generator: torch.Generator) -> Tensor:
    a, b, c = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    first = SMALLEST + a * (2.5 * scale - SMALLEST)
    return gaussian(first, SMALLEST + b * (first - SMALLEST), math.pi * c)


def estimate_kernel(image: Tensor, coefficients: Tensor, scale: int) -> Tensor:
    """Return the Gaussian kernel that fits the blur of an image (C, H, W) in [0, 1].

    `coefficients` are those of `fit_estimator` for the scale and the sampling; variances are
    kept in its range. Raises `ValueError` for images smaller than 32 pixels.
    """
    grey = image.mean(0).cpu()
    if min(grey.shape) < BLOCK:
        raise ValueError(f"an image of {tuple(grey.shape)} pixels is too small")
    xx, xy, yy = (features(grey).float() @ coefficients).double().tolist()
    values, vectors = torch.linalg.eigh(torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64))
    second, first = values.clamp(SMALLEST, 2.5 * scale).tolist()
    return gaussian(first, second, math.atan2(float(vectors[1, 1]), float(vectors[0, 1])))
