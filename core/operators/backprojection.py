"""Filtered back-projection: the classical inverse of the parallel-beam and fan-beam transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .tomography import Array, Beam, FanBeam

Window = Literal["ramp", "hann"]
GAP = 3.0  # a gap between views wider than this many usual ones was not measured


def filtered_backprojection(
    sinogram: Tensor,
    beam: Beam,
    image_shape: Sequence[int],
    pixel: float = 1.0,
    window: Window = "ramp",
) -> Tensor:
    """Return the image (B, 1, H, W) of a sinogram (B, views, bins), per unit of length.

    Band-limited ramp filter, `hann` damps high frequencies; linear interpolation between bins.
    Views need not be equidistant: each counts for the angle between its neighbours. Fan beams
    are weighted (Kak, Slaney 1988, sections 3.3 and 3.4); rays measured from both sides share
    their weight smoothly (Noo et al. 2002), so that full and short scans both work.
    """
    if tuple(sinogram.shape[1:]) != (len(beam.angles), beam.bins):
        raise ValueError(f"a sinogram {tuple(sinogram.shape)} does not fit the beam")
    weighted = sinogram * _like(_ray_weights(beam), sinogram)
    filtered = _filter(weighted, beam, window)
    shares = _view_shares(beam) if isinstance(beam, FanBeam) else _view_shares(beam, math.pi)
    image = sinogram.new_zeros(len(sinogram), *image_shape)
    y, x = (_like(axis, sinogram) for axis in _axes(image_shape, pixel))
    for view, angle in enumerate(beam.angles):
        places, factors = _landing(beam, angle, x, y)
        seen = _read(filtered[:, view], places)
        image += seen * (factors * float(shares[view]))
    return image[:, None]


def _like(values: Array, tensor: Tensor) -> Tensor:
    return torch.from_numpy(values).to(tensor)


def _axes(shape: Sequence[int], pixel: float) -> tuple[Array, Array]:
    """Return the heights (H, 1) of the rows of pixels, and the positions (1, W) of the columns."""
    height, width = shape
    y = ((height - 1) / 2 - np.arange(height, dtype=np.float64)) * pixel
    x = (np.arange(width, dtype=np.float64) - (width - 1) / 2) * pixel
    return y[:, None], x[None]


def _landing(beam: Beam, angle: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return the detector bin (H, W) on which each pixel's ray falls, and its weight there."""
    centre = (beam.bins - 1) / 2 if beam.centre is None else beam.centre
    along = x * math.cos(angle) + y * math.sin(angle)
    if not isinstance(beam, FanBeam):
        return along / beam.bin_width + centre, 1.0
    depth = y * math.cos(angle) - x * math.sin(angle) + beam.source
    if beam.shape == "flat":
        return beam.detector * along / depth / beam.bin_width + centre, (beam.source / depth) ** 2
    places = torch.atan2(along, depth) * beam.detector / beam.bin_width + centre
    return places, 1 / (along**2 + depth**2)


def _read(rows: Tensor, places: Tensor) -> Tensor:
    """Interpolate rows (B, bins) linearly at `places` (H, W); outside the detector is 0."""
    bins = rows.shape[1]
    padded = torch.nn.functional.pad(rows, (1, 1))
    inside = (places + 1).clamp_(0, bins + 1)
    lower = inside.to(torch.int32).clamp_(max=bins)
    values = padded.index_select(1, lower.flatten()).view(-1, *places.shape)
    rises = padded.diff(dim=1).index_select(1, lower.flatten()).view(-1, *places.shape)
    return torch.addcmul(values, rises, inside - lower)


def _filter(sinogram: Tensor, beam: Beam, window: Window) -> Tensor:
    """Convolve each view with the band-limited ramp (Kak, Slaney 1988, equation 3.61)."""
    bins, step = beam.bins, _bin_step(beam)
    size = 2 ** math.ceil(math.log2(2 * bins))
    n = np.fft.fftfreq(size, 1 / size)
    kernel = np.zeros(size)
    kernel[0] = 1 / (4 * step**2)
    odd = n % 2 == 1
    kernel[odd] = -1 / (math.pi * n[odd] * step) ** 2
    if isinstance(beam, FanBeam) and beam.shape == "arc":
        # Beyond the longest distance of two bins the kernel is never used.
        near = (np.abs(n) < bins) & (n != 0)
        kernel[near] *= (n[near] * step / np.sin(n[near] * step)) ** 2
        kernel[np.abs(n) >= bins] = 0
    response = np.fft.rfft(kernel).real * step
    if window == "hann":
        response *= 0.5 * (1 + np.cos(math.pi * np.arange(len(response)) / (len(response) - 1)))
    spectrum = torch.fft.rfft(sinogram, n=size) * _like(response, sinogram)
    return torch.fft.irfft(spectrum, n=size)[..., :bins]


def _bin_step(beam: Beam) -> float:
    """Return the bin spacing in which the filter counts: at the axis, or an angle for arcs."""
    if not isinstance(beam, FanBeam):
        return beam.bin_width
    angle = beam.bin_width / beam.detector
    return angle if beam.shape == "arc" else beam.source * angle


def _ray_weights(beam: Beam) -> Array:
    """Return the weight of each ray before filtering, (views, bins) or (1, bins)."""
    if not isinstance(beam, FanBeam):
        return np.ones((1, beam.bins))
    cosine = np.cos(beam.fan_angles)  # equals R / sqrt(R^2 + u^2) on a flat detector
    along = cosine if beam.shape == "flat" else beam.source * cosine
    return along * _shares_of_twins(beam)


def _shares_of_twins(beam: FanBeam) -> Array:
    """Return the share of each ray (views, bins) in the line that its twin may have seen too.

    The ray (beta, gamma) runs along the same line as (beta + pi - 2 gamma, -gamma).
    """
    turns = np.sort(np.mod(beam.angles, 2 * math.pi))
    gaps = np.diff(turns, append=turns[0] + 2 * math.pi)
    usual = float(np.median(gaps))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= GAP * usual:
        return np.full((1, beam.bins), 0.5)
    begin = turns[(widest + 1) % len(turns)] - usual / 2
    length = 2 * math.pi - gaps[widest] + usual
    ramp = max(10 * usual, (length - math.pi) / 2)

    def presence(angle: Array) -> Array:
        """Return how much a source position counts: 1 amid the scan, falling to 0 outside."""
        place = np.mod(angle - begin, 2 * math.pi)
        edge = np.clip(np.minimum(place, length - place) / ramp, 0, 1)
        return np.sin(math.pi / 2 * edge) ** 2

    own = presence(beam.angles)[:, None] * np.ones(beam.bins)
    twin = presence(beam.angles[:, None] + math.pi - 2 * beam.fan_angles)
    return own / (own + twin)


def _view_shares(beam: Beam, period: float = 2 * math.pi) -> Array:
    """Return the angle for which each view counts: half of the gaps to its two neighbours."""
    turns = np.mod(beam.angles, period)
    order = np.argsort(turns)
    gaps = np.diff(turns[order], append=turns[order[0]] + period)
    gaps = np.minimum(gaps, GAP * np.median(gaps[gaps > 1e-9]))
    shares = np.empty(len(turns))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2
    return shares
