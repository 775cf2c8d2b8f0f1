from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlkit.tasks.denoise.activations import LinearSplines, project
from mlkit.tasks.denoise.convolution import compose
from mlkit.tasks.denoise.model import SPAN, ConvexRidge, Ridge


def random_model(seed: int = 0, channels: int = 6, kernel_size: int = 5) -> ConvexRidge:
    """A small network whose splines rise in random places."""
    torch.manual_seed(seed)
    model = ConvexRidge((3, channels), kernel_size)
    with torch.no_grad():
        model.coefficients.copy_(0.02 * torch.randn(channels, 21).cumsum(1))
    return model.eval()


def random_ridge(seed: int = 0, dtype: torch.dtype = torch.float64) -> Ridge:
    with torch.no_grad():
        return random_model(seed).ridge().to(dtype)


def picture(height: int = 24, width: int = 31, seed: int = 0, batch: int = 1) -> Tensor:
    """Smooth shapes with an edge, float64 in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    random = np.random.default_rng(seed)
    planes = []
    for _ in range(batch):
        a, b = random.uniform(3, 9, 2)
        smooth = 0.5 + 0.25 * np.sin(x / a) * np.cos(y / b)
        planes.append(smooth + 0.2 * (x + y > random.integers(10, 40)))
    return torch.from_numpy(np.clip(np.stack(planes), 0, 1))[:, None]


def noise(like: Tensor, sigma: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sigma / 255 * torch.randn(like.shape, generator=generator, dtype=torch.float64)


def huber_tv(dtype: torch.dtype = torch.float64) -> Ridge:
    """Forward differences with clipped identities: the gradient of Huber's total variation."""
    filters = torch.zeros(2, 1, 3, 3, dtype=dtype)
    filters[0, 0, 1, 1], filters[0, 0, 1, 2] = -1, 1
    filters[1, 0, 1, 1], filters[1, 0, 2, 1] = -1, 1
    knots = torch.linspace(-SPAN, SPAN, 21, dtype=dtype)
    clip = project(knots.clamp(-0.05, 0.05).expand(2, 21))
    return Ridge(compose([filters]), LinearSplines(clip, SPAN))
