"""How noisy is an image? Estimated from its finest diagonal details."""

from __future__ import annotations

import torch
from torch import Tensor

# High-pass of the wavelet db2, and the median of |N(0, 1)|.
_DB2 = (-0.48296291314469025, 0.83651630373746899, -0.22414386804185735, -0.12940952255092145)
_MEDIAN = 0.6744897501960817
SMALLEST = 4


def estimate_sigma(planes: Tensor) -> list[float]:
    """Return the standard deviation of the noise in each plane of (C, H, W), in their unit.

    The median of the absolute diagonal db2 coefficients, over 0.6745 (Donoho, Johnstone 1994):
    right for white Gaussian noise; fine texture raises it, compression and scaling lower it.
    """
    taps = torch.tensor(_DB2, dtype=planes.dtype)
    diagonal = torch.outer(taps, taps)[None, None]
    details = torch.nn.functional.conv2d(planes[:, None], diagonal, stride=2)
    return [float(d.abs().median()) / _MEDIAN for d in details]
