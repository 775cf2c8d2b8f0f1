"""PSNR and SSIM on brightness, with the rounding and the border of the super-resolution papers."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.metrics import psnr, ssim

_WEIGHTS = (65.481, 128.553, 24.966)  # BT.601 of RGB in [0, 1]


def luma(images: Tensor) -> Tensor:
    """Return Y (B, 1, H, W), whole numbers in 16..235, of images (B, 3, H, W) in [0, 1].

    The images are first rounded to 8 bit, as a file would hold them.
    """
    levels = (images.double().clamp(0, 1) * 255).round() / 255
    weights = torch.tensor(_WEIGHTS, dtype=torch.float64, device=images.device)
    return (torch.einsum("bchw,c->bhw", levels, weights) + 16).round()[:, None]


def scores(image: Tensor, truth: Tensor, border: int) -> tuple[float, float]:
    """Return PSNR in dB and SSIM on Y, `border` pixels cut off along each side."""
    inside = slice(border, -border or None)
    a, b = (luma(x)[..., inside, inside] for x in (image, truth))
    return psnr(a, b, 255.0), ssim(a, b, 255.0)
