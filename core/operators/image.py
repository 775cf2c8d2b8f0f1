"""Operators of photographs: blur, subsampling, missing pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .base import Operator

Boundary = Literal["symmetric", "zero", "periodic"]
_PAD_MODES = {"symmetric": "symmetric", "zero": "constant", "periodic": "wrap"}


class Blur(Operator):
    """Convolution of the image with a kernel (kh, kw): what a point source looks like.

    (h * x)[i] = sum_k h[k] x[i - (k - c)], with the centre c = (kh // 2, kw // 2);
    `correlation=True` gives sum_k h[k] x[i + k - c] instead, the same for symmetric kernels.
    Beyond its border the image goes on mirrored with the border pixel repeated ("symmetric"),
    black ("zero"), or from its other side ("periodic"). Applied through the Fourier transform
    of the extended image, whatever the kernel's size.
    """

    def __init__(
        self,
        kernel: Tensor,
        image_shape: Sequence[int],
        boundary: Boundary = "symmetric",
        correlation: bool = False,
    ) -> None:
        super().__init__(image_shape, (1, *image_shape))
        if kernel.ndim != 2 or kernel.numel() == 0:
            raise ValueError(f"a kernel has two axes, not shape {tuple(kernel.shape)}")
        if boundary not in _PAD_MODES:
            raise ValueError(f"no boundary {boundary!r}; choose from {', '.join(_PAD_MODES)}")
        self.boundary, self.kernel_shape = boundary, tuple(kernel.shape)
        for axis, name in enumerate(("rows", "columns")):
            before = kernel.shape[axis] // 2
            if not correlation:
                before = kernel.shape[axis] - 1 - before
            self.register_buffer(name, self._sources(axis, before))
        self.register_buffer("kernel", kernel if correlation else kernel.flip(0, 1))

    def _sources(self, axis: int, before: int) -> Tensor:
        """Return which pixel each place of the extended axis shows; length: outside (black)."""
        length = self.image_shape[axis]
        mode = _PAD_MODES[self.boundary]
        width = (before, self.kernel_shape[axis] - 1 - before)
        fill = {"constant_values": length} if mode == "constant" else {}
        return torch.from_numpy(np.pad(np.arange(length), width, mode=mode, **fill))  # type: ignore[call-overload]

    def _spectrum(self, like: Tensor) -> tuple[Tensor, tuple[int, int]]:
        from scipy.fft import next_fast_len

        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        size = (next_fast_len(len(rows), True), next_fast_len(len(columns), True))
        return torch.fft.rfft2(self.get_buffer("kernel").to(like.dtype), s=size), size

    def _map(self, image: Tensor) -> Tensor:
        height, width = self.image_shape
        spectrum, size = self._spectrum(image)
        blank = torch.nn.functional.pad(image, (0, 1, 0, 1))  # the place that "outside" names
        wide = blank[:, :, self.get_buffer("rows")][..., self.get_buffer("columns")]
        product = torch.fft.rfft2(wide, s=size) * spectrum.conj()
        return torch.fft.irfft2(product, s=size)[..., :height, :width]

    def _transpose(self, data: Tensor) -> Tensor:
        height, width = self.image_shape
        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        spectrum, size = self._spectrum(data)
        product = torch.fft.rfft2(data, s=size) * spectrum
        wide = torch.fft.irfft2(product, s=size)[..., : len(rows), : len(columns)]
        tall = data.new_zeros(*wide.shape[:2], height + 1, wide.shape[3]).index_add(2, rows, wide)
        folded = data.new_zeros(*wide.shape[:2], height + 1, width + 1)
        return folded.index_add(3, columns, tall)[..., :height, :width]


class Subsample(Operator):
    """Every `scale`-th pixel of each axis, beginning with pixel `offset`."""

    def __init__(self, scale: int, image_shape: Sequence[int], offset: int = 0) -> None:
        if not 0 <= offset < scale:
            raise ValueError(f"offset {offset} must be in [0, {scale})")
        small = [len(range(offset, n, scale)) for n in image_shape]
        if 0 in small:
            raise ValueError(f"an image {tuple(image_shape)} has nothing left at scale {scale}")
        super().__init__(image_shape, (1, *small))
        self.scale, self.offset = scale, offset

    def _map(self, image: Tensor) -> Tensor:
        return image[..., self.offset :: self.scale, self.offset :: self.scale]

    def _transpose(self, data: Tensor) -> Tensor:
        image = data.new_zeros(len(data), 1, *self.image_shape)
        image[..., self.offset :: self.scale, self.offset :: self.scale] = data
        return image


class Mask(Operator):
    """Pixels that were seen, the others 0: inpainting. `mask` (H, W) is 0 where they are lost."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape, (1, *mask.shape))
        self.register_buffer("mask", (mask != 0).float())

    def _map(self, image: Tensor) -> Tensor:
        return image * self.get_buffer("mask")

    def _transpose(self, data: Tensor) -> Tensor:
        return data * self.get_buffer("mask")

    def floor(self) -> float:
        """Return 1 when nothing is lost, else 0."""
        return float(self.get_buffer("mask").min())


class Crop(Operator):
    """What a frame shows of a larger image: all but `margin` pixels along each side."""

    def __init__(self, image_shape: Sequence[int], margin: int) -> None:
        height, width = (n - 2 * margin for n in image_shape)
        if margin < 0 or height < 1 or width < 1:
            raise ValueError(f"a margin of {margin} leaves nothing of {tuple(image_shape)}")
        super().__init__(image_shape, (1, height, width))
        self.margin = margin

    def _map(self, image: Tensor) -> Tensor:
        height, width = self.data_shape[1:]
        return image[..., self.margin : self.margin + height, self.margin : self.margin + width]

    def _transpose(self, data: Tensor) -> Tensor:
        return torch.nn.functional.pad(data, (self.margin,) * 4)
