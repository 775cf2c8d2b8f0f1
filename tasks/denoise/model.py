"""The convex ridge regulariser R(x) = sum_c sum_pixels psi_c((W x)_c) and the denoisers from it.

W is a composition of convolutions with zero-mean filters, sigma_c = psi_c' a learned monotone
spline, and grad R(x) = W^T sigma(W x). Images are real tensors (B, 1, H, W), about in [0, 1].
Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for
Inverse Problems", IEEE Transactions on Computational Imaging 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.tiles import in_tiles
from .activations import Activation, LinearSplines, Rectifiers, project
from .convolution import adjoint, analyse, compose, spectra, synthesise

SPAN = 0.1  # the splines' knots lie in [-SPAN, SPAN]
PRUNE_BELOW = 1e-4
TILE = 256  # larger tiles leave the processor's caches
GRID = 256

ActivationName = Literal["spline", "relu"]
StepRule = Literal["descent", "averaged"]


@dataclass(frozen=True)
class Ridge:
    """One regulariser R: kernels (C, 1, K, K) of W, and the activations of its C channels.

    Images larger than `tile` are worked through in tiles, with the same result up to rounding.
    """

    kernel: Tensor
    activation: Activation
    tile: int = TILE

    @property
    def margin(self) -> int:
        """How many pixels far W sees."""
        return self.kernel.shape[-1] // 2

    @property
    def channels(self) -> int:
        """Number of ridges."""
        return len(self.kernel)

    def gradient(self, x: Tensor) -> Tensor:
        """Return grad R(x) = W^T sigma(W x); with autograd on, differentiable in everything."""
        if torch.is_grad_enabled():
            return synthesise(self.activation(analyse(x, self.kernel)), self.kernel)
        return in_tiles(x, self.tile, 2 * self.margin, self._gradient)

    def energy(self, x: Tensor) -> Tensor:
        """Return R(x) of each image (B,), summed in float64."""
        if torch.is_grad_enabled():
            density = self._density(x)
        else:
            density = in_tiles(x, self.tile, self.margin, self._density)
        return density.sum((1, 2, 3), dtype=torch.float64)

    def scaled(self, strength: float, scale: float) -> Ridge:
        """Return strength/scale * R(scale * x); its gradient is strength * grad R(scale * x)."""
        return replace(self, activation=self.activation.scaled(strength, scale))

    def pruned(self, below: float = PRUNE_BELOW) -> Ridge:
        """Return R without the channels that add next to nothing to it.

        A channel counts by the energy of its kernel times the slope changes of its activation.
        """
        weight = self.kernel.square().sum((1, 2, 3)) * self.activation.bend()
        keep = (weight > below) | (weight == weight.max())
        return replace(self, kernel=self.kernel[keep], activation=self.activation.select(keep))

    def to(self, target: torch.device | torch.dtype) -> Ridge:
        """Return R on another device, or in another precision."""
        return replace(self, kernel=self.kernel.to(target), activation=self.activation.to(target))

    @torch.no_grad()
    def lipschitz(self) -> float:
        """Return an upper bound of the Lipschitz constant of grad R, whatever the image size.

        On images W^T diag(d) W, with the largest slopes d, is a compression of a convolution
        with the symbol P(w) = sum_c d_c |K_c(w)|^2, so its norm is at most max P. P is a
        trigonometric polynomial of degree n = K - 1: between N grid points it exceeds its
        largest value on the grid by 1 / cos(pi n / N) at most, along either axis (M. Riesz).
        """
        degree = self.kernel.shape[-1] - 1
        points = max(GRID, 8 * degree)
        transformed = torch.fft.rfft2(self.kernel[:, 0].double(), s=(points, points))
        slopes = self.activation.slopes().double()
        symbol = torch.einsum("c,chw->hw", slopes, transformed.abs().square())
        return float(symbol.max()) / math.cos(math.pi * degree / points) ** 2

    def _bound(self, u: Tensor) -> Tensor:
        maps = analyse(u, self.kernel) * self.activation.slopes()[:, None, None]
        return synthesise(maps, self.kernel)

    @cached_property
    def _spectra(self) -> dict[tuple[int, int], Tensor]:
        return {}

    def _gradient(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        if size not in self._spectra:
            if len(self._spectra) > 8:  # as many as an image in tiles needs
                self._spectra.clear()
            self._spectra[size] = spectra(self.kernel, *size)
        maps = self.activation.fast(analyse(x, self.kernel))
        return adjoint(maps, self.kernel, self._spectra[size])

    def _density(self, x: Tensor) -> Tensor:
        return self.activation.integral(analyse(x, self.kernel)).sum(1, keepdim=True)


class ConvexRidge(nn.Module):
    """The learned parameters: of R, and of the t-step denoiser that R is trained as.

    `widths` are the output channels of the convolutions, `kernel_size` is odd. `strength`
    (lambda) and `scale` (mu) belong to the denoiser. `activation` "relu" and `zero_mean` False
    are ablations.
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 32),
        kernel_size: int = 7,
        knots: int = 21,
        activation: ActivationName = "spline",
        zero_mean: bool = True,
    ) -> None:
        super().__init__()
        self.settings = {
            "widths": list(widths),
            "kernel_size": kernel_size,
            "knots": knots,
            "activation": activation,
            "zero_mean": zero_mean,
        }
        self.zero_mean = zero_mean
        inputs = (1, *widths[:-1])
        self.filters = nn.ParameterList(
            nn.Conv2d(n, out, kernel_size, bias=False).weight
            for n, out in zip(inputs, widths, strict=True)
        )
        spline = activation == "spline"
        self.coefficients = nn.Parameter(torch.zeros(widths[-1], knots)) if spline else None
        self.bias = None if spline else nn.Parameter(torch.zeros(widths[-1]))
        self.strength = nn.Parameter(torch.tensor(5.0 if spline else 5e-3))
        self.scale = nn.Parameter(torch.tensor(1.0))
        # A running estimate of R's Lipschitz constant, and the image it comes from.
        self.register_buffer("lipschitz", torch.tensor(1.0))
        self.register_buffer("image", torch.rand(1, 1, 20, 20))

    lipschitz: Tensor
    image: Tensor

    def ridge(self) -> Ridge:
        """Return R as it stands, attached to the parameters."""
        kernel = compose(list(self.filters), self.zero_mean)
        if self.coefficients is None:
            assert self.bias is not None
            return Ridge(kernel, Rectifiers(self.bias))
        return Ridge(kernel, LinearSplines(project(self.coefficients), SPAN))

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale R so that its gradient is Lipschitz with constant 1; `strength` makes up for it.

        The minimisers stay the same. In training, a constant below 0.1 would be taken as 0.1.
        """
        bound = self.ridge().lipschitz()
        if self.coefficients is not None and bound > 0:
            self.coefficients.div_(bound)
            self.strength.mul_(bound)
            self.lipschitz.fill_(1.0)
            self.image.copy_(torch.rand_like(self.image))

    def track_lipschitz(self, ridge: Ridge) -> Tensor:
        """Return the Lipschitz constant of grad R, differentiable, from two power steps."""
        with torch.no_grad():
            u = _normalised(ridge._bound(_normalised(self.image)))
        u = ridge._bound(u)
        norm = u.norm().clamp(min=0.1)
        with torch.no_grad():
            if bool(u.any()):  # flat splines, as at the start, would erase the image for ever
                self.image.copy_(u)
            self.lipschitz.copy_(norm)
        return norm

    def denoise(
        self, noisy: Tensor, steps: int, rule: StepRule = "descent", ridge: Ridge | None = None
    ) -> Tensor:
        """Return images after t = `steps` gradient steps on the denoising problem (section 2.5).

        `rule` "averaged" makes every denoiser non-expansive, "descent" takes longer steps. In
        training mode the Lipschitz constant is tracked, otherwise the stored one is used.
        """
        strength, scale = _at_least(self.strength, 1e-4), _at_least(self.scale, 1e-2)
        ridge = ridge or self.ridge()
        bound = self.track_lipschitz(ridge) if self.training else self.lipschitz
        # The first step is of length 2 / bound on R alone; the strength cancels.
        x = noisy - 2 / (bound * scale) * ridge.gradient(scale * noisy)
        curvature = bound * strength * scale
        length = (2 - 1e-8) / (1 + curvature) if rule == "descent" else 2 / (2 + curvature)
        for _ in range(steps - 1):
            x = x - length * ((x - noisy) + strength * ridge.gradient(scale * x))
        return x


def _at_least(x: Tensor, least: float) -> Tensor:
    """Return max(x, least), whose gradient is that of x everywhere.

    With a plain clamp a number that one large step of the optimiser took below the limit would
    never come back.
    """
    return x + (x.clamp(min=least) - x).detach()


def _normalised(u: Tensor) -> Tensor:
    return u / u.norm().clamp(min=torch.finfo(u.dtype).tiny)
