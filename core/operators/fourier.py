"""Magnetic resonance imaging: masked Fourier samples of a real image, seen by receiver coils."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fft import fft2, fftshift, ifft2, ifftshift

from .base import Operator


class MaskedFourier(Operator):
    """y_c = M F (S_c x): the orthonormal 2-D Fourier transform of what each coil sees.

    `mask` (H, W), or (W,) for whole columns, is 0 where nothing was measured. `coils`
    (C, H, W) complex are the sensitivities S; None means one coil that sees everything alike.
    Image and spectrum have their origins in the middle, as scanners store them; `centred=False`
    puts both into the corner. Data are complex, (B, C, H, W), zero outside the mask.
    """

    def __init__(
        self,
        mask: Tensor,
        image_shape: tuple[int, int],
        coils: Tensor | None = None,
        centred: bool = True,
    ) -> None:
        count = 1 if coils is None else len(coils)
        super().__init__(image_shape, (count, *image_shape))
        if tuple(mask.shape) not in (self.image_shape, self.image_shape[1:]):
            raise ValueError(f"mask {tuple(mask.shape)} does not fit {self.image_shape}")
        if coils is not None and tuple(coils.shape) != self.data_shape:
            raise ValueError(f"coils {tuple(coils.shape)} do not fit {self.data_shape}")
        self.centred = centred
        self.register_buffer("mask", (mask != 0).expand(self.image_shape).float())
        # As pairs of real numbers, so that `.double()` converts them like everything else.
        sensitivities = torch.ones(self.data_shape) if coils is None else coils
        pairs = torch.view_as_real(sensitivities.to(torch.complex64)).contiguous()
        self.register_buffer("coils", pairs)

    def _map(self, image: Tensor) -> Tensor:
        seen = torch.view_as_complex(self.get_buffer("coils")) * image
        if not self.centred:
            return fft2(seen, norm="ortho") * self.get_buffer("mask")
        axes = (-2, -1)
        spectrum = fftshift(fft2(ifftshift(seen, axes), norm="ortho"), axes)
        return spectrum * self.get_buffer("mask")

    def _transpose(self, data: Tensor) -> Tensor:
        seen = self._inverse(data * self.get_buffer("mask"))
        coils = torch.view_as_complex(self.get_buffer("coils"))
        return (coils.conj() * seen).real.sum(1, keepdim=True)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        if not self.centred:
            return ifft2(spectrum, norm="ortho")
        axes = (-2, -1)
        return fftshift(ifft2(ifftshift(spectrum, axes), norm="ortho"), axes)

    def zero_filled(self, data: Tensor) -> Tensor:
        """Return the usual image (B, 1, H, W) without a prior: what was not measured is 0.

        One coil: the magnitude of the inverse transform. Several: H^T y divided by the summed
        squared sensitivities, 0 where no coil sees anything.
        """
        if self.data_shape[0] == 1:
            return self._inverse(data * self.get_buffer("mask")).abs()
        seen = self.get_buffer("coils").square().sum((0, -1))
        return torch.where(seen > 0, self.adjoint(data) / seen.clamp_min(1e-12), 0.0)

    def floor(self) -> float:
        """Return the least root of the summed squared sensitivities under a full mask, else 0."""
        if not bool(self.get_buffer("mask").all()):
            return 0.0
        return float(self.get_buffer("coils").square().sum((0, -1)).min().sqrt())
