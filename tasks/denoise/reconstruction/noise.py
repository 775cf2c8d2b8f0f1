"""How noisy measurements are, estimated from the measurements alone.

All take the median absolute value of coefficients in which the signal is small: half of them
may hold signal without harm. 0.6745 is the median of |n| for a normal n of deviation 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MEDIAN = 0.6744897501960817
OUTER = 0.75  # frequencies beyond this part of the highest one hold little signal


def sinogram_noise(sinogram: Tensor) -> float:
    """Return the noise of sinograms (..., bins), from second differences along the detector."""
    return _median(sinogram.diff(n=2, dim=-1)) / (MEDIAN * math.sqrt(6))


def patchy_noise(picture: Tensor, seen: Tensor) -> float:
    """Return the noise of a picture (..., H, W) with holes, from its diagonal Haar coefficients.

    `seen` (H, W) is 0 where pixels are missing: only complete squares of 2 x 2 count. NaN when
    there are none.
    """
    height, width = (n - n % 2 for n in picture.shape[-2:])
    picture = picture[..., :height, :width]
    a, b = picture[..., ::2, ::2], picture[..., ::2, 1::2]
    c, d = picture[..., 1::2, ::2], picture[..., 1::2, 1::2]
    whole = seen[:height, :width].reshape(height // 2, 2, width // 2, 2).ne(0).all(3).all(1)
    return _median(((a - b - c + d) / 2)[..., whole]) / MEDIAN


def kspace_noise(kspace: Tensor, mask: Tensor) -> float:
    """Return the noise of the real and of the imaginary part of centred samples (..., H, W).

    From the magnitudes at high frequencies among what `mask` (H, W) says was sampled; the median
    of a Rayleigh variable is sqrt(2 log 2). NaN when nothing was sampled there.
    """
    height, width = mask.shape
    rows = (torch.arange(height) - height // 2).abs() / (height / 2)
    columns = (torch.arange(width) - width // 2).abs() / (width / 2)
    outer = torch.maximum(rows[:, None], columns[None]) > OUTER
    return _median(kspace[..., outer & (mask != 0)].abs()) / math.sqrt(2 * math.log(2))


def _median(values: Tensor) -> float:
    return float(values.abs().median()) if values.numel() else math.nan
