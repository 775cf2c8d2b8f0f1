"""k-space as scanners write it, validated before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....core.arrays import entries, read_array
from ....core.errors import DataError, UsageError
from ....core.operators.fourier import MaskedFourier
from ....core.progress import Progress, Silent
from .config import MriConfig
from .noise import kspace_noise
from .problem import Scan
from .sensitivities import central_columns, estimate_coils, phase_share

Array = NDArray[Any]
PHASE = 0.02  # part of the image's energy that may be imaginary in a real image


def read_mri(config: MriConfig, progress: Progress) -> list[Scan]:
    """Return one scan per slice; says what it assumes.

    Raises `DataError` for data that are not complex, or masks and coils that do not fit.
    """
    volume = _read_kspace(config)
    mask = _read_mask(config, volume, progress)
    scans: list[Scan] = []
    for kspace in volume:
        data = torch.from_numpy(np.ascontiguousarray(kspace)).to(torch.complex64) * mask
        # What holds for the first slice is not said again for the others.
        coils = _choose_coils(config, data, mask, Silent() if scans else progress)
        operator = MaskedFourier(mask, (data.shape[1], data.shape[2]), coils, config.centred)
        centred = data if config.centred else torch.fft.fftshift(data, (-2, -1))
        place = mask if config.centred else torch.fft.fftshift(mask)
        numbers = 2 * len(data) * int(mask.sum())
        noise = kspace_noise(centred, place)
        scans.append(Scan(operator, data[None], operator.zero_filled(data[None]), numbers, noise))
    return scans


def _read_kspace(config: MriConfig) -> Array:
    """Return the samples (slices, coils, H, W)."""
    path = config.kspace
    entry = config.entry
    if entry is None and "kspace" in entries(path):
        entry = "kspace"
    bart = path.suffix.lower() in (".cfl", ".hdr")
    array = _coils_first(read_array(path, entry, None if bart else config.slice_), path)
    if array.dtype.kind != "c":
        raise DataError(
            f"{path} holds real numbers ({array.dtype}), k-space is complex",
            "for an image use 'mlkit denoise'; store real and imaginary part as one complex array",
        )
    if array.ndim == 2:
        return array[None, None]
    stack = entry == "kspace" and path.suffix.lower() != ".npy" and config.slice_ is None
    if array.ndim == 3:  # slices of one coil in fastMRI's files, coils elsewhere
        return array[:, None] if stack else array[None]
    if array.ndim == 4:
        return array
    raise DataError(
        f"{path} has shape {array.shape}; k-space is (H, W), (coils, H, W) or with slices before"
    )


def _coils_first(array: Array, path: Path) -> Array:
    """Bring BART's order (x, y, z, coils) of one slice into (coils, x, y)."""
    if path.suffix.lower() not in (".cfl", ".hdr") or array.ndim < 3:
        return array
    if array.shape[2] != 1 or array.ndim > 4:
        raise DataError(f"{path} has shape {array.shape}; only single slices (x, y, 1, coils)")
    return np.moveaxis(array[:, :, 0], -1, 0) if array.ndim == 4 else array[:, :, 0]


def _read_mask(config: MriConfig, volume: Array, progress: Progress) -> Tensor:
    """Return the mask (H, W) of zeros and ones."""
    shape = volume.shape[2:]
    if config.mask is None:
        seen = (volume != 0).any(axis=(0, 1))
        if not seen.any():
            raise DataError(f"{config.kspace} is zero everywhere")
        share = f"{100 * float(seen.mean()):.0f} %"
        progress.info(f"no --mask: the {share} of the samples that are not 0 count as measured")
        return torch.from_numpy(seen).float()
    mask = np.squeeze(read_array(config.mask))
    if mask.shape not in (shape, shape[1:]):
        raise DataError(
            f"{config.mask} has shape {mask.shape}, k-space has {shape}",
            "a mask has the shape of k-space, or one value per column",
        )
    if not mask.any():
        raise DataError(f"{config.mask} is zero everywhere: nothing was measured")
    return torch.from_numpy(np.broadcast_to(mask != 0, shape).copy()).float()


def _choose_coils(
    config: MriConfig, data: Tensor, mask: Tensor, progress: Progress
) -> Tensor | None:
    """Return the sensitivities (coils, H, W), None for one coil that sees all alike."""
    if config.coils not in ("auto", "estimate", "none"):
        return _read_coils(Path(config.coils), tuple(data.shape))
    several = len(data) > 1
    if config.coils == "none" and several:
        raise UsageError(f"--coils none, but {config.kspace} has {len(data)} coils")
    centred = data if config.centred else torch.fft.fftshift(data, (-2, -1))
    place = mask if config.centred else torch.fft.fftshift(mask)
    if config.coils == "estimate" or (several and config.coils == "auto"):
        maps = estimate_coils(centred, place)
        if not config.centred:
            maps = torch.fft.ifftshift(maps, (-2, -1))
        width = central_columns(place)
        progress.info(f"sensitivities estimated from the central {width} columns")
        return maps
    share = phase_share(centred, place)
    if config.coils == "auto" and share > PHASE:
        progress.warn(
            f"{100 * share:.0f} % of the image's energy is imaginary, but it is taken as real; "
            "--coils estimate models the phase"
        )
    return None


def _read_coils(path: Path, shape: tuple[int, ...]) -> Tensor:
    maps = _coils_first(read_array(path), path)
    maps = maps[None] if maps.ndim == 2 else np.squeeze(maps)
    maps = maps[None] if maps.ndim == 2 else maps
    if maps.ndim != 3 or maps.shape[1:] != shape[1:]:
        raise DataError(f"{path} has shape {maps.shape}, k-space has {shape}")
    if len(maps) != shape[0]:
        raise DataError(f"{path} has {len(maps)} coils, k-space has {shape[0]}")
    if not maps.any():
        raise DataError(f"{path} is zero everywhere: no coil sees anything")
    return torch.from_numpy(np.ascontiguousarray(maps)).to(torch.complex64)
