"""The field's standard metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Proportion:
    """`hits` of `total`, with the 95 % Wilson score interval (Wilson 1927)."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The fraction of hits, in [0, 1]."""
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, in [0, 1]."""
        z, n, p = 1.959963984540054, self.total, self.value
        centre = p + z * z / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def correct_in_top_k(logits: Tensor, labels: Tensor, k: int) -> int:
    """Count the rows of `logits` (N, K) whose label (N,) is among the k largest entries."""
    k = min(k, logits.shape[1])
    hits = logits.topk(k, dim=1).indices == labels[:, None]
    return int(hits.any(dim=1).sum())


def psnr(image: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB of two tensors of one shape; inf if equal."""
    error = (image.double() - truth.double()).square().mean()
    return float(10 * (peak**2 / error).log10())


def ssim(image: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """Return the mean structural similarity of two batches of planes (B, C, H, W).

    Gaussian windows of 11 pixels (sigma 1.5), k1 = 0.01, k2 = 0.03, windows that reach over the
    frame left out: Wang, Bovik, Sheikh, Simoncelli 2004. Planes need at least 11 x 11 pixels.
    """
    import torch

    offsets = torch.arange(-5, 6, dtype=torch.float64, device=image.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def blur(x: Tensor) -> Tensor:
        down = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], weights.view(1, 1, -1, 1))
        return torch.nn.functional.conv2d(down, weights.view(1, 1, 1, -1))

    a, b = image.double(), truth.double()
    mean_a, mean_b = blur(a), blur(b)
    variance = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_a**2 + mean_b**2 + c1) * (variance + c2))).mean())
