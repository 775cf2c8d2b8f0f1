"""A measurement to explain, and the penalties that choose among its explanations.

In all of it images count in units of `intensity`, so that they lie about in [0, 1], and the data
term is f(x) = 0.5 * ||H x - y||^2 / ||H||^2: its gradient has Lipschitz constant 1 whatever the
instrument, and one range of strengths fits all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ....core.operators.base import Operator
from ....core.runtime import stream
from ..model import Ridge


@dataclass(frozen=True)
class Scan:
    """Items measured by one operator: data (N, ...), classical images (N, 1, H, W).

    `noise` is the estimated deviation of the `numbers` real numbers of each item.
    """

    operator: Operator
    data: Tensor
    classical: Tensor
    numbers: int
    noise: float


@dataclass(frozen=True)
class Problem:
    """Data (1, ...) of `operator`, in their own units, and what is known about them.

    `start` (1, 1, H, W) is the classical reconstruction; `numbers` counts the real numbers that
    were measured; `noise` is their standard deviation; `positive` images have no negative values.
    """

    operator: Operator
    data: Tensor
    start: Tensor
    numbers: int
    noise: float
    positive: bool
    intensity: float
    norm: float

    @cached_property
    def _scaled(self) -> Tensor:
        return self.data / self.intensity

    def gradient(self, x: Tensor) -> Tensor:
        """Return grad f(x) = H^T (H x - y) / ||H||^2."""
        return self.operator.adjoint(self.operator(x) - self._scaled) / self.norm**2

    def energy(self, x: Tensor) -> float:
        """Return f(x)."""
        return 0.5 * (self.misfit(x) / self.intensity / self.norm) ** 2

    def misfit(self, x: Tensor) -> float:
        """Return ||H x - y|| in units of the data."""
        difference = self.operator(x) - self._scaled
        return self.intensity * float(
            torch.linalg.vector_norm(difference, dtype=widest(difference))
        )

    @property
    def expected_misfit(self) -> float:
        """What noise alone contributes to the misfit: its deviation times sqrt(numbers)."""
        return self.noise * math.sqrt(self.numbers)

    @property
    def convexity(self) -> float:
        """Proven lower bound m of the curvature of f; 0 where some images are invisible."""
        return (self.operator.floor() / self.norm) ** 2

    def gradient_noise(self) -> float:
        """Return the standard deviation that noise in the data gives each pixel of grad f."""
        generator = stream(0, 1)
        shape = self.data.shape
        noise = torch.randn(shape, generator=generator)
        if self.data.is_complex():
            noise = torch.complex(noise, torch.randn(shape, generator=generator))
        image = self.operator.adjoint(noise.to(self.data))
        return float(image.std()) * self.noise / self.intensity / self.norm**2


def widest(tensor: Tensor) -> torch.dtype:
    """Return the double-precision kind of a tensor."""
    return torch.complex128 if tensor.is_complex() else torch.float64


class Penalty(Protocol):
    """A convex function: a smooth part with a gradient, and a part with a proximal map."""

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant of the smooth part's gradient."""

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of the smooth part."""

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Return the proximal point of `step` times the other part."""

    def energy(self, x: Tensor) -> float:
        """Return the value of both parts together, on allowed images."""


class RidgePenalty:
    """A learned prior with its strength and scale built in, with or without x >= 0."""

    def __init__(self, ridge: Ridge, positive: bool) -> None:
        self.ridge, self.positive = ridge, positive
        self.lipschitz = ridge.lipschitz()

    def gradient(self, x: Tensor) -> Tensor:
        """Return grad R(x)."""
        return self.ridge.gradient(x)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Return the nearest allowed image."""
        return x.clamp_min(0) if self.positive else x

    def energy(self, x: Tensor) -> float:
        """Return R(x)."""
        return float(self.ridge.energy(x).sum())


def amplitude(ridge: Ridge) -> float:
    """Return how strongly grad R pushes a pixel where all activations are saturated.

    The root of sum_c (half the range of sigma_c)^2 * ||k_c||^2. Strength times amplitude does
    not depend on the units in which a prior happens to have been learned.
    """
    far = torch.full((1, ridge.channels, 1, 1), 1e3, device=ridge.kernel.device)
    half = (ridge.activation(far) - ridge.activation(-far)).flatten() / 2
    return float((half.square() * ridge.kernel.square().sum((1, 2, 3))).sum().sqrt())
