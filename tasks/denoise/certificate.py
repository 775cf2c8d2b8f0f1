"""What can be proved of a prior and of a result, measured on the numbers that were used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...core.solvers import ROUNDING, Solution
from .activations import LinearSplines
from .convolution import analyse, synthesise
from .model import Ridge
from .problem import STRONG_CONVEXITY, Denoising

ADJOINT_TOLERANCE = 1e-4
GREY = 255


@dataclass(frozen=True)
class Certificate:
    """Proof of convexity, and of how near the result is to the only minimiser.

    `smallest_slope` >= 0 and an exact adjoint make R convex. `lipschitz` bounds that of grad R.
    `largest_rise` is the largest relative rise of the objective in a step (rounding is 1e-6).
    `gradient_norm` is that of the objective at the result, and `distance_rms` the bound
    ||g|| / m of the distance to the minimiser, per pixel in grey levels.
    """

    smallest_slope: float
    value_at_zero: float
    largest_filter_mean: float
    adjoint_error: float
    lipschitz: float
    strong_convexity: float
    largest_rise: float
    gradient_norm: float
    distance_rms: float

    @property
    def convex(self) -> bool:
        """True when R is proved to be convex."""
        return self.smallest_slope >= 0 and self.adjoint_error <= ADJOINT_TOLERANCE

    @property
    def monotone(self) -> bool:
        """True when no step raised the objective."""
        return self.largest_rise <= ROUNDING

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "convex": self.convex, "monotone": self.monotone}

    def rows(self) -> list[tuple[str, str]]:
        """Return what to show people."""
        yes = {True: "proved", False: "VIOLATED"}
        return [
            ("prior convex", f"{yes[self.convex]} (smallest slope {self.smallest_slope:.1e})"),
            ("adjoint exact", f"relative error {self.adjoint_error:.1e}"),
            ("filters without mean", f"largest mean {self.largest_filter_mean:.1e}"),
            ("gradient of the prior", f"Lipschitz, constant at most {self.lipschitz:.4g}"),
            ("objective decreased", f"{yes[self.monotone]} (largest rise {self.largest_rise:.1e})"),
            ("final gradient norm", f"{self.gradient_norm:.2e}"),
            ("distance to the minimiser", f"at most {self.distance_rms:.2g} grey levels (RMS)"),
        ]


@torch.no_grad()
def certify(problem: Denoising, solution: Solution) -> Certificate:
    """Return the certificate of a solution that `problem.solve(record=True)` returned."""
    ridge = problem.ridge
    norm = float(problem.gradient(solution.x).double().norm())
    energies = torch.tensor(solution.energies, dtype=torch.float64)
    rises = energies.diff() / energies[:-1].abs().clamp(min=1e-300)
    slope, zero = _shape_of(ridge)
    return Certificate(
        slope,
        zero,
        float(ridge.kernel.mean((1, 2, 3)).abs().max()),
        adjoint_error(ridge),
        ridge.lipschitz(),
        STRONG_CONVEXITY,
        float(rises.max()) if len(rises) else 0.0,
        norm,
        GREY * norm / STRONG_CONVEXITY / solution.x.numel() ** 0.5,
    )


def _shape_of(ridge: Ridge) -> tuple[float, float]:
    """Return the smallest slope of all activations, and the largest |sigma(0)|."""
    if isinstance(ridge.activation, LinearSplines):
        smallest = float(ridge.activation.values.diff(dim=1).min()) / ridge.activation.step
    else:
        smallest = min(0.0, float(ridge.activation.slopes().min()))
    zero = torch.zeros(1, ridge.channels, 1, 1).to(ridge.kernel)
    return smallest, float(ridge.activation(zero).abs().max())


def adjoint_error(ridge: Ridge, size: int = 48) -> float:
    """Return |<W x, v> - <x, W^T v>| / (||W x|| ||v||) for random x and v."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, size, size, generator=generator).to(ridge.kernel)
    v = torch.randn(1, ridge.channels, size, size, generator=generator).to(ridge.kernel)
    maps, images = analyse(x, ridge.kernel).double(), synthesise(v, ridge.kernel).double()
    difference = (maps * v).sum() - (x * images).sum()
    return float(difference.abs() / (maps.norm() * v.double().norm()))
