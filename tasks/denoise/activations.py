"""Activations sigma_c of the regulariser and their integrals psi_c, for maps v (B, C, H, W).

The method's are monotone linear splines; rectifiers are its ablation. Both are non-decreasing,
so that every psi_c is convex. Source: Goujon et al. 2022, section on learnable linear splines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

MOST_CLAMPS = 5


class Activation(Protocol):
    """What the regulariser needs to know of sigma and psi."""

    def __call__(self, v: Tensor) -> Tensor:
        """Return sigma_c(v), differentiable in v and in the activation's own tensors."""

    def fast(self, v: Tensor) -> Tensor:
        """Return sigma_c(v) outside of autograd; may overwrite v."""

    def integral(self, v: Tensor) -> Tensor:
        """Return psi_c(v), with psi_c(0) = 0."""

    def slopes(self) -> Tensor:
        """Return the largest slope of each sigma_c (C,)."""

    def bend(self) -> Tensor:
        """Return how far each sigma_c (C,) is from being constant: its sum of slope changes."""

    def scaled(self, strength: float, scale: float) -> Self:
        """Return strength * sigma(scale * v)."""

    def select(self, keep: Tensor) -> Self:
        """Return the channels that the mask `keep` (C,) names."""

    def to(self, target: torch.device | torch.dtype) -> Self:
        """Return a copy on another device, or in another precision."""


def project(coefficients: Tensor) -> Tensor:
    """Return monotone tables (C, n) with value 0 at the centre knot and flat outermost cells.

    `coefficients` (C, n) are free; falling slopes and the two outermost become 0.
    """
    rises = coefficients.diff(dim=1)
    # Not clamp: its gradient is 0 at 0, where all slopes start, and nothing would ever train.
    rises = torch.where(rises >= 0, rises, torch.zeros_like(rises))
    inner = torch.ones_like(rises[0])
    inner[0] = inner[-1] = 0
    sums = (rises * inner).cumsum(1)
    values = torch.cat((torch.zeros_like(sums[:, :1]), sums), 1)
    return values - values[:, values.shape[1] // 2, None]


@dataclass(frozen=True)
class LinearSplines:
    """Splines with `values` (C, n) at n equidistant knots in [-span, span], constant outside.

    n is odd, the two outermost cells are flat; monotone where the rows of `values` do not fall.
    """

    values: Tensor
    span: float

    @property
    def step(self) -> float:
        """Distance between two knots."""
        return 2 * self.span / (self.values.shape[1] - 1)

    def __call__(self, v: Tensor) -> Tensor:
        """Return sigma_c(v), differentiable in v and in `values`."""
        result: Tensor = _Interpolate.apply(v, self.values, self.span)
        return result

    def fast(self, v: Tensor) -> Tensor:
        """Return sigma_c(v), as a sum of clamps where few cells rise: exact, and faster."""
        base, terms = self._clamps
        if len(terms) > MOST_CLAMPS:
            return self(v)
        total = base
        for slope, low, high in terms:
            total = torch.addcmul(total, v.clamp(low, high), slope)
        return total

    @cached_property
    def _clamps(self) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """sigma(v) = base + sum_j slope_j * clamp(v, low_j, high_j)."""
        slopes = self.values.detach().diff(dim=1) / self.step
        shape = (1, len(slopes), 1, 1)
        count = max(1, int((slopes > 0).sum(1).max()))
        cells = slopes.argsort(dim=1, descending=True, stable=True)[:, :count]
        low = (cells * self.step - self.span).to(slopes)
        steep = slopes.gather(1, cells)
        base = self.values.detach()[:, 0] - (steep * low).sum(1)
        terms = [
            (steep[:, j].view(shape), low[:, j].view(shape), (low[:, j] + self.step).view(shape))
            for j in range(count)
        ]
        return base.view(shape), terms

    def integral(self, v: Tensor) -> Tensor:
        """Return psi_c(v): quadratic in each cell, linear outside."""
        knots = self.values.shape[1]
        areas = (self.values[:, :-1] + self.values[:, 1:]).cumsum(1) * (self.step / 2)
        areas = torch.cat((torch.zeros_like(areas[:, :1]), areas), 1)
        areas = areas - areas[:, knots // 2, None]
        index, _ = _cells(v.detach(), knots, self.span)
        places = torch.linspace(-self.span, self.span, knots, dtype=v.dtype, device=v.device)
        curvatures = torch.nn.functional.pad(self.values.diff(dim=1) / (2 * self.step), (0, 1))

        def at(table: Tensor) -> Tensor:
            return table.reshape(-1).index_select(0, index.view(-1)).view_as(v)

        # The ends are flat, so the formula of the outermost cells holds beyond them as well.
        along = v - at(places.expand_as(self.values))
        return at(areas) + along * (at(self.values) + along * at(curvatures))

    def slopes(self) -> Tensor:
        """Return the largest slope of each spline (C,)."""
        return self.values.diff(dim=1).amax(1) / self.step

    def bend(self) -> Tensor:
        """Return the second-order total variation (TV2) of each spline (C,)."""
        return self.values.diff(n=2, dim=1).abs().sum(1) / self.step

    def scaled(self, strength: float, scale: float) -> LinearSplines:
        """Return strength * sigma(scale * v)."""
        return LinearSplines(self.values * strength, self.span / scale)

    def select(self, keep: Tensor) -> LinearSplines:
        """Return the channels that the mask `keep` (C,) names."""
        return replace(self, values=self.values[keep])

    def to(self, target: torch.device | torch.dtype) -> LinearSplines:
        """Return a copy on another device, or in another precision."""
        return replace(self, values=self.values.to(target))


def _cells(v: Tensor, knots: int, span: float) -> tuple[Tensor, Tensor]:
    """Return each entry's place (int32) in a table (C, knots), and how far it is in its cell."""
    cells = knots - 1
    scaled = (v * (cells / (2 * span)) + cells / 2).clamp_(0, cells)
    left = scaled.to(torch.int32).clamp_(max=cells - 1)
    rows = torch.arange(v.shape[1], dtype=torch.int32, device=v.device) * knots
    return left + rows[:, None, None], scaled.sub_(left)


class _Interpolate(torch.autograd.Function):
    """Linear interpolation in one table per channel, with gradients for the two knots used."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, values: Tensor, span: float) -> Tensor:
        index, place = _cells(v, values.shape[1], span)
        rises = torch.nn.functional.pad(values.diff(dim=1), (0, 1))
        flat = index.view(-1)
        left = values.flatten().index_select(0, flat).view_as(v)
        rise = rises.flatten().index_select(0, flat).view_as(v)
        ctx.save_for_backward(index, place, rise)
        ctx.shape, ctx.span = values.shape, span
        return torch.addcmul(left, place, rise)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        index, place, rise = ctx.saved_tensors
        (gradient,) = gradients
        channels, knots = ctx.shape
        flat = index.view(-1).long()
        right = gradient * place
        table = torch.zeros(channels * knots, dtype=gradient.dtype, device=gradient.device)
        table.scatter_add_(0, flat, (gradient - right).reshape(-1))
        table.scatter_add_(0, flat + 1, right.reshape(-1))
        slope = rise * ((knots - 1) / (2 * ctx.span))
        return gradient * slope, table.view(channels, knots), None


@dataclass(frozen=True)
class Rectifiers:
    """The ablation: sigma_c(v) = gain * max(v + bias_c, 0), with `bias` (C,)."""

    bias: Tensor
    gain: float = 1.0

    def __call__(self, v: Tensor) -> Tensor:
        """Return sigma_c(v)."""
        return self.gain * (v + self.bias[:, None, None]).relu()

    def fast(self, v: Tensor) -> Tensor:
        """Return sigma_c(v)."""
        return self(v)

    def integral(self, v: Tensor) -> Tensor:
        """Return psi_c(v), with psi_c(0) = 0."""
        bias = self.bias[:, None, None]
        return 0.5 * self.gain * ((v + bias).relu().square() - bias.relu().square())

    def slopes(self) -> Tensor:
        """Return the largest slope of each rectifier (C,)."""
        return torch.full_like(self.bias, self.gain)

    def bend(self) -> Tensor:
        """Return the slope change of each rectifier (C,)."""
        return self.slopes()

    def scaled(self, strength: float, scale: float) -> Rectifiers:
        """Return strength * sigma(scale * v)."""
        return Rectifiers(self.bias / scale, self.gain * strength * scale)

    def select(self, keep: Tensor) -> Rectifiers:
        """Return the channels that the mask `keep` (C,) names."""
        return replace(self, bias=self.bias[keep])

    def to(self, target: torch.device | torch.dtype) -> Rectifiers:
        """Return a copy on another device, or in another precision."""
        return replace(self, bias=self.bias.to(target))
