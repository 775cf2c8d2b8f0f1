"""Bicubic enlarging and reducing, antialiased where it reduces, with the exact adjoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .base import Operator

_REACH = 2.0  # of the cubic, in pixels of the coarser grid


class Resize(Operator):
    """Cubic interpolation (Keys 1981, a = -0.5) to `size` (rows, columns), pixels centred.

    Where the image shrinks the kernel is stretched by the factor, so nothing aliases; beyond the
    border the image goes on mirrored with the border pixel repeated. This is the "bicubic" that
    super-resolution is scored with. `shift` moves what is seen by so many pixels of the input.
    """

    def __init__(self, image_shape: Sequence[int], size: Sequence[int], shift: float = 0.0) -> None:
        super().__init__(image_shape, (1, *size))
        for axis, name in enumerate(("rows", "columns")):
            places, weights = _taps(int(image_shape[axis]), int(size[axis]), shift)
            self.register_buffer(f"{name}_places", places)
            self.register_buffer(f"{name}_weights", weights)

    def _axis(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.get_buffer(f"{name}_weights")
        return self.get_buffer(f"{name}_places"), weights.to(like.dtype)

    def _map(self, image: Tensor) -> Tensor:
        columns = _gather(image.mT, *self._axis("columns", image)).mT
        return _gather(columns, *self._axis("rows", image))

    def _transpose(self, data: Tensor) -> Tensor:
        height, width = self.image_shape
        rows = _scatter(data, *self._axis("rows", data), height)
        return _scatter(rows.mT, *self._axis("columns", data), width).mT


def _gather(image: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Return sum_p w[p, i] x[..., place[p, i], :] over the taps p."""
    total = image[..., places[0], :] * weights[0][:, None]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total = total.addcmul(image[..., place, :], weight[:, None])
    return total


def _scatter(data: Tensor, places: Tensor, weights: Tensor, length: int) -> Tensor:
    """Return the transpose of `_gather` applied to data."""
    total = data.new_zeros(*data.shape[:-2], length, data.shape[-1])
    for place, weight in zip(places, weights, strict=True):
        total.index_add_(-2, place, data * weight[:, None])
    return total


@lru_cache(maxsize=64)
def _taps(length: int, size: int, shift: float) -> tuple[Tensor, Tensor]:
    """Return which pixels each new one is made of, and their weights, both (taps, size)."""
    factor = size / length
    stretch = max(1.0, 1 / factor)
    centre = (np.arange(size) + 0.5) / factor - 0.5 + shift
    first = np.floor(centre - _REACH * stretch).astype(int) + 1
    places = first + np.arange(math.ceil(2 * _REACH * stretch))[:, None]
    weights = _cubic((centre - places) / stretch)
    weights /= weights.sum(0)
    mirrored = places % (2 * length)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    return torch.from_numpy(mirrored), torch.from_numpy(weights)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < _REACH, far, 0.0))
