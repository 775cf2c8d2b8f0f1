"""Denoising as a problem: min_x 0.5 * ||x - y||^2 + R(x), strongly convex with m = 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.runtime import Runtime, start
from ...core.solvers import Solution, accelerated_gradient
from .model import Ridge

STRONG_CONVEXITY = 1.0


def start_exact(options: RunOptions) -> Runtime:
    """Start the run; its bounds and transforms need 32 bits. Raises `UsageError` for fewer."""
    if options.precision != "fp32":
        raise UsageError(f"--precision {options.precision}: denoise computes in fp32 only")
    return start(options)


@dataclass(frozen=True)
class Denoising:
    """The problem for a batch of noisy images; `ridge` has its strength and scale built in.

    Images are continued by reflection as far as R sees, because R takes what lies outside as
    black. The problem is the one on the larger images `y`; `crop` takes the frame off again.
    """

    y: Tensor
    ridge: Ridge
    frame: int

    @classmethod
    def of(cls, noisy: Tensor, ridge: Ridge) -> Denoising:
        """Return the problem for images (B, 1, H, W)."""
        frame = min(2 * ridge.margin, min(noisy.shape[-2:]) - 1)
        y = torch.nn.functional.pad(noisy, (frame,) * 4, mode="reflect")
        return cls(y, ridge, frame)

    def gradient(self, x: Tensor) -> Tensor:
        """Return x - y + grad R(x)."""
        return self.ridge.gradient(x).add_(x).sub_(self.y)

    def objective(self, x: Tensor) -> float:
        """Return 0.5 * ||x - y||^2 + R(x) over all images, summed in float64."""
        fidelity = 0.5 * (x - self.y).square().sum(dtype=torch.float64)
        return float(fidelity + self.ridge.energy(x).sum())

    @torch.no_grad()
    def solve(
        self,
        *,
        tolerance: float = 1e-4,
        iterations: int = 1000,
        start: Tensor | None = None,
        record: bool = False,
        progress: Progress | None = None,
        title: str = "denoising",
    ) -> Solution:
        """Return the minimiser on the continued images, proved to be as near as `tolerance`.

        `start` is a first guess of that size. With `record` the objective is kept from rising
        and recorded, at the price of computing it.
        """
        return accelerated_gradient(
            self.gradient,
            self.y if start is None else start,
            lipschitz=STRONG_CONVEXITY + self.ridge.lipschitz(),
            strong_convexity=STRONG_CONVEXITY,
            energy=self.objective if record else None,
            tolerance=tolerance,
            iterations=iterations,
            progress=progress,
            title=title,
        )

    def crop(self, x: Tensor) -> Tensor:
        """Return the images without what was added at their frame."""
        height, width = x.shape[-2:]
        return x[..., self.frame : height - self.frame, self.frame : width - self.frame]
