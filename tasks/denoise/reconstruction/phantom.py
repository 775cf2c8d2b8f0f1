"""A head without a patient: the phantom of Shepp and Logan, to try things on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Brightness, half axes, centre, and tilt in degrees of each ellipse (Shepp, Logan 1974, with the
# contrast of Toft 1996 that can be seen).
ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
FINE = 4  # samples per pixel and axis: edges are as soft as a pixel


def shepp_logan(height: int, width: int) -> Tensor:
    """Return the phantom (1, 1, H, W) in [0, 1], edges averaged over pixels."""
    y = 1 - (torch.arange(height * FINE) + 0.5) * 2 / (height * FINE)
    x = (torch.arange(width * FINE) + 0.5) * 2 / (width * FINE) - 1
    image = torch.zeros(height * FINE, width * FINE)
    for value, a, b, x0, y0, tilt in ELLIPSES:
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        right, up = x[None] - x0, y[:, None] - y0
        along, across = right * cos + up * sin, up * cos - right * sin
        image += value * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return torch.nn.functional.avg_pool2d(image[None, None], FINE).clamp(0, 1)
