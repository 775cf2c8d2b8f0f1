"""Receiver sensitivities and image phase, estimated from the fully sampled centre of k-space."""

from __future__ import annotations

import torch
from torch import Tensor

from ....core.errors import DataError

FAINT = 0.02  # where a coil image is darker than this part of its maximum, nothing is known


def central_columns(mask: Tensor) -> int:
    """Return the number of columns around the middle of (H, W) that were sampled completely."""
    full = (mask != 0).all(0)
    middle = len(full) // 2
    count = 0
    while count < min(middle, len(full) - 1 - middle) and bool(
        full[middle - count - 1] and full[middle + count + 1]
    ):
        count += 1
    return (2 * count + 1) if bool(full[middle]) else 0


def _low_resolution(kspace: Tensor, mask: Tensor) -> Tensor:
    """Return what each coil (C, H, W) sees, through a Hann window on the central columns."""
    count = central_columns(mask)
    if count < 5:
        raise DataError(
            f"only {count} columns in the middle of k-space are complete: too few to estimate "
            "sensitivities or phase",
            "pass --coils FILE (for one coil with a real image: --coils none)",
        )
    height, width = mask.shape
    # The same resolution along both axes; the number of rows is odd as that of columns.
    rows = min(height - 1 + height % 2, 2 * round(count * height / width / 2) + 1)
    window = torch.zeros(height, width)
    tall = torch.hann_window(rows + 2, periodic=False)[1:-1]
    wide = torch.hann_window(count + 2, periodic=False)[1:-1]
    top, left = height // 2 - rows // 2, width // 2 - count // 2
    window[top : top + rows, left : left + count] = tall[:, None] * wide
    axes = (-2, -1)
    spectrum = torch.fft.ifftshift(kspace * window, axes)
    return torch.fft.fftshift(torch.fft.ifft2(spectrum, norm="ortho"), axes)


def estimate_coils(kspace: Tensor, mask: Tensor) -> Tensor:
    """Return sensitivities (C, H, W) with sum |S|^2 = 1 where there is signal, 0 elsewhere.

    Self-calibration (McKenzie et al., Magn. Reson. Med. 2002): low-resolution coil images over
    their root sum of squares. They carry the image's phase too, so that the image is real: with
    one coil nothing but the phase is estimated. `kspace` is centred.
    """
    images = _low_resolution(kspace, mask)
    strength = images.abs().square().sum(0).sqrt()
    floor = FAINT * strength.max()
    return torch.where(strength > floor, images / strength.clamp_min(floor), 0)


def phase_share(kspace: Tensor, mask: Tensor) -> float:
    """Return which part of the energy of the low-resolution image is imaginary, 0 if unknown."""
    if central_columns(mask) < 5:
        return 0.0
    image = _low_resolution(kspace, mask)
    return float(image.imag.square().sum() / image.abs().square().sum().clamp_min(1e-30))
