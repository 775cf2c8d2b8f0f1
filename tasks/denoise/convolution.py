"""The linear map W of the regulariser: one bank of filters, applied directly and by FFT.

Images are (B, 1, H, W), maps (B, C, H, W), kernels (C, 1, K, K) with K odd. Images count as zero
outside of their frame, and maps are taken inside of it only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


def compose(filters: Sequence[Tensor], zero_mean: bool = True) -> Tensor:
    """Return the kernels that do what `filters` do one after the other.

    `filters` are weights (out, in, k, k) of cross-correlations; with `zero_mean` each filter
    loses its mean over (in, k, k) first, so that constants are mapped to zero.
    """
    kernel: Tensor | None = None
    for weight in filters:
        if zero_mean:
            weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        kernel = weight if kernel is None else F.conv_transpose2d(weight, kernel)
    if kernel is None:
        raise ValueError("no filters")
    return kernel


def analyse(x: Tensor, kernel: Tensor) -> Tensor:
    """Return W x, the maps of images; differentiable."""
    maps: Tensor = _Analyse.apply(x, kernel)
    return maps


def synthesise(v: Tensor, kernel: Tensor) -> Tensor:
    """Return W^T v, the exact adjoint of `analyse`; differentiable."""
    images: Tensor = _Synthesise.apply(v, kernel)
    return images


class _Analyse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, kernel = ctx.saved_tensors
        to_x = adjoint(gradients[0], kernel) if ctx.needs_input_grad[0] else None
        return to_x, _kernel_gradient(x, kernel, gradients[0], ctx.needs_input_grad[1])


class _Synthesise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(v, kernel)
        return adjoint(v, kernel)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        v, kernel = ctx.saved_tensors
        to_v = F.conv2d(gradients[0], kernel, padding=kernel.shape[-1] // 2)
        return to_v, _kernel_gradient(gradients[0], kernel, v, ctx.needs_input_grad[1])


def _kernel_gradient(x: Tensor, kernel: Tensor, maps: Tensor, wanted: bool) -> Tensor | None:
    if not wanted:
        return None
    gradient: Tensor = conv2d_weight(
        x.contiguous(), list(kernel.shape), maps.contiguous(), padding=kernel.shape[-1] // 2
    )
    return gradient


def adjoint(v: Tensor, kernel: Tensor, transformed: Tensor | None = None) -> Tensor:
    """Return W^T v by FFT: a direct convolution to one channel is several times slower.

    `transformed` are the kernels' `spectra` for this size of image, where they are at hand.
    """
    height, width = v.shape[-2:]
    if transformed is None:
        transformed = spectra(kernel, height, width)
    size = fft_size(height, width, kernel)
    total = (torch.fft.rfft2(v, s=size) * transformed).sum(1, keepdim=True)
    return torch.fft.irfft2(total, s=size)[..., :height, :width]


def spectra(kernel: Tensor, height: int, width: int) -> Tensor:
    """Return the Fourier transforms (C, rows, columns) that `adjoint` multiplies with."""
    rows, columns = fft_size(height, width, kernel)
    margin, size = kernel.shape[-1] // 2, kernel.shape[-1]
    centred = F.pad(kernel[:, 0], (0, columns - size, 0, rows - size))
    return torch.fft.rfft2(centred.roll((-margin, -margin), (1, 2)))


def fft_size(height: int, width: int, kernel: Tensor) -> tuple[int, int]:
    """Return sizes that are fast to transform and keep what wraps around out of the image."""
    from scipy.fft import next_fast_len

    size = kernel.shape[-1]
    rows, columns = (max(n + size // 2, size) for n in (height, width))
    return next_fast_len(rows, real=True), next_fast_len(columns, real=True)
