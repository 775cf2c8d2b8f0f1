"""How a small image came from a large one: blur, then fewer pixels; and bicubic enlarging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ...core.operators.base import Operator
from ...core.operators.image import Blur, Subsample
from ...core.operators.resize import Resize
from .kernels import delta

Sampling = Literal["direct", "bicubic"]


@dataclass(frozen=True, eq=False)
class Degradation:
    """Small image = every `scale`-th pixel of (large image correlated with `kernel`).

    `sampling` "direct" keeps the top left pixel of each cell, so the small image lies
    (scale - 1) / 2 pixels beside a centred one; "bicubic" reduces with antialiasing, centred.
    """

    kernel: Tensor
    scale: int
    sampling: Sampling

    def operator(self, height: int, width: int) -> Operator:
        """Return the exact linear operator on large planes (B, 1, height, width).

        Raises `ValueError` when the scale does not divide the size: no irregular sampling.
        """
        scale = self.scale
        if height % scale or width % scale:
            raise ValueError(f"{height} x {width} pixels are not multiples of {scale}")
        small = (height // scale, width // scale)
        if self.sampling == "direct":
            reduce: Operator = Subsample(scale, (height, width))
        else:
            reduce = Resize((height, width), small)
        if self.kernel.numel() == 1:
            return reduce
        return reduce @ Blur(self.kernel, (height, width), correlation=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the small images (B, C, H / scale, W / scale) of large ones (B, C, H, W)."""
        operator = self.operator(*images.shape[-2:]).to(images.device)
        return planewise(operator, images)


def bicubic(scale: int) -> Degradation:
    """Return plain bicubic reduction, the degradation of a sharp source."""
    return Degradation(delta(), scale, "bicubic")


def planewise(operator: Operator, images: Tensor) -> Tensor:
    """Apply an operator on planes to every plane of (B, C, H, W)."""
    planes = operator(images.flatten(0, 1)[:, None])
    return planes[:, 0].unflatten(0, images.shape[:2])


def resize(images: Tensor, height: int, width: int, shift: float = 0.0) -> Tensor:
    """Return images (B, C, H, W) at another size by bicubic interpolation, not clipped."""
    operator = _resizer(*images.shape[-2:], height, width, shift)
    return planewise(operator.to(images.device), images)


def enlarge(images: Tensor, scale: int, sampling: Sampling = "bicubic") -> Tensor:
    """Return images (B, C, H, W) enlarged by a whole factor: what the network sees.

    The small pixels are put where `sampling` took them from: in the middle of their cells
    ("bicubic", what the paper does for both), or at the top left pixel ("direct").
    """
    shift = (scale - 1) / (2 * scale) if sampling == "direct" else 0.0
    return resize(images, scale * images.shape[-2], scale * images.shape[-1], shift)


@lru_cache(maxsize=16)
def _resizer(height: int, width: int, rows: int, columns: int, shift: float) -> Resize:
    return Resize((height, width), (rows, columns), shift)


def crop_to_multiple(images: Tensor, scale: int) -> Tensor:
    """Cut rows below and columns on the right until `scale` divides the size."""
    height, width = (n - n % scale for n in images.shape[-2:])
    return images[..., :height, :width]


def turned(images: Tensor, turn: int) -> Tensor:
    """Return one of the eight mirror images and quarter turns (0..7) of (B, C, H, W)."""
    images = images.flip(-1) if turn >= 4 else images
    return torch.rot90(images, turn % 4, (-2, -1))


def turned_back(images: Tensor, turn: int) -> Tensor:
    """Return the inverse of `turned`."""
    images = torch.rot90(images, -(turn % 4), (-2, -1))
    return images.flip(-1) if turn >= 4 else images
