"""Solving a reconstruction problem, choosing the prior's strength, and certifying the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....core.errors import DataError
from ....core.progress import Progress, Silent
from ....core.runtime import stream
from ....core.solvers import Solution, accelerated_gradient
from ..model import Ridge
from .config import AUTO, DISCREPANCY, SolveOptions
from .problem import Penalty, Problem, RidgePenalty, amplitude, widest
from .variation import TotalVariation

ROUGH = 3.0  # on the way to an image, tolerances may be this much wider
MATCH = 0.02  # how well a misfit must meet the noise, relatively
SEARCHES, REACH = 12, 1e3  # evaluations, and how far from the usual strength they may go


@dataclass(frozen=True)
class Tuning:
    """What `auto` means for an instrument: strengths as parts of `noise_strength`, and mu.

    A weak prior fills what was not measured slowly: `warm_up` are multiples of the strength that
    are solved roughly before, each from the image of the one before.
    """

    crr: float
    mu: float
    tv: float
    warm_up: tuple[float, ...] = ()


# Best on tuning images: `python -m tests.experiments reconstruct-tune`.
TUNED = {
    "ct": Tuning(crr=0.35, mu=10.0, tv=0.7),
    "mri": Tuning(crr=0.015, mu=3.0, tv=0.015, warm_up=(128.0, 16.0, 4.0, 2.0)),
    "image": Tuning(crr=0.25, mu=10.0, tv=0.35),
    "matrix": Tuning(crr=0.35, mu=10.0, tv=0.7),
}


@dataclass(frozen=True)
class Chosen:
    """A strength and the rule that chose it."""

    strength: float
    rule: str


class Reconstructor:
    """Minimises f + penalty for an instrument; the penalty is TV where there is no `ridge`."""

    def __init__(self, instrument: str, ridge: Ridge | None, options: SolveOptions) -> None:
        self.options, self.tuning = options, TUNED[instrument]
        self.method = "tv" if ridge is None else "crr"
        self.mu = options.mu or self.tuning.mu
        self.ridge = None if ridge is None else ridge.pruned()

    def penalty(self, problem: Problem, strength: float) -> Penalty:
        """Return the method's penalty."""
        if self.ridge is None:
            return TotalVariation(strength, problem.positive)
        return RidgePenalty(self.ridge.scaled(strength, self.mu), problem.positive)

    @torch.no_grad()
    def solve(
        self,
        problem: Problem,
        strength: float,
        start: Tensor,
        *,
        tolerance: float | None = None,
        watch: bool = False,
        progress: Progress | None = None,
    ) -> Solution:
        """Return the minimiser, in units of the intensity; `watch` records the energies."""
        penalty = self.penalty(problem, strength)
        lipschitz = 1 + penalty.lipschitz
        options = self.options
        # The proximal map of TV is inexact: momentum needs the energy to tell when it misleads.
        watch = watch or self.ridge is None
        return accelerated_gradient(
            lambda x: problem.gradient(x) + penalty.gradient(x),
            start.clamp_min(0) if problem.positive else start,
            lipschitz=lipschitz,
            project=lambda x: penalty.prox(x, 1 / lipschitz),
            energy=(lambda x: problem.energy(x) + penalty.energy(x)) if watch else None,
            tolerance=tolerance or options.tol,
            iterations=options.iterations,
            progress=progress,
            title=f"{self.method}, lambda {strength:.3g}",
        )

    def warm_up(
        self, problem: Problem, strength: float, start: Tensor, progress: Progress | None = None
    ) -> Tensor:
        """Return an image to start from."""
        for factor in self.tuning.warm_up:
            start = self._rough(problem, factor * strength, start, progress)
        return start

    def _rough(
        self, problem: Problem, strength: float, start: Tensor, progress: Progress | None
    ) -> Tensor:
        tolerance = min(ROUGH * self.options.tol, 1e-3)
        return self.solve(problem, strength, start, tolerance=tolerance, progress=progress).x

    def reconstruct(
        self, problem: Problem, progress: Progress | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the image (1, 1, H, W) in its own units, and what there is to report.

        Raises `DataError` when the run did not converge and `best_effort` is off.
        """
        options = self.options
        start = problem.start / problem.intensity
        chosen, start = self.choose(problem, start, progress or Silent())
        start = self.warm_up(problem, chosen.strength, start, progress)
        solution = self.solve(
            problem, chosen.strength, start, watch=options.certify, progress=progress
        )
        if not (solution.converged or options.best_effort):
            raise DataError(
                f"not converged after {solution.iterations} iterations: the last step changed the "
                f"image by {solution.change:.1e}, --tol is {options.tol:g}",
                f"try --iterations {4 * options.iterations}, a larger --tol, or accept "
                "the image as it is with --best-effort",
            )
        report = self._report(problem, chosen, solution)
        if options.certify:
            report["certificate"] = self.certify(problem, chosen.strength, solution)
        return solution.x * problem.intensity, report

    def choose(self, problem: Problem, start: Tensor, progress: Progress) -> tuple[Chosen, Tensor]:
        """Return the strength by the rule of `--lambda`, and an image to start from."""
        if self.options.strength not in (AUTO, DISCREPANCY):
            return Chosen(float(self.options.strength), "given"), start
        usual = self.usual_strength(problem)
        if self.options.strength == AUTO:
            return Chosen(usual, "proportional to the noise"), start
        return self.match_noise(problem, usual, start, progress)

    def usual_strength(self, problem: Problem) -> float:
        """Return the strength that was best on the tuning images, in proportion to the noise."""
        ratio = self.tuning.tv if self.ridge is None else self.tuning.crr
        return ratio * self.noise_strength(problem)

    def noise_strength(self, problem: Problem) -> float:
        """Return the strength with which the prior pushes as hard as the noise does."""
        push = 1.0 if self.ridge is None else amplitude(self.ridge)
        return problem.gradient_noise() / push

    def match_noise(
        self, problem: Problem, first: float, start: Tensor, progress: Progress
    ) -> tuple[Chosen, Tensor]:
        """Return the strength whose misfit is that of the noise (Morozov's principle).

        The misfit grows with the strength: growing factors bracket the noise, then
        interpolation between logarithms closes in; each solve starts from the last image.
        """
        target = problem.expected_misfit
        image = start

        def excess(strength: float) -> float:
            nonlocal image
            image = self._rough(problem, strength, image, progress)
            return math.log(max(problem.misfit(image), 1e-30) / target)

        found, gap = find_root(excess, first)
        if abs(gap) > 5 * MATCH:
            progress.warn(
                f"no --lambda makes the misfit equal to the noise, it stays {math.exp(gap):.2g} "
                "times as large; is --noise right? --lambda auto is used instead"
            )
            return Chosen(first, "proportional to the noise"), start
        return Chosen(found, "discrepancy principle"), image

    def _report(self, problem: Problem, chosen: Chosen, solution: Solution) -> dict[str, Any]:
        penalty = self.penalty(problem, chosen.strength)
        return {
            "lambda": chosen.strength,
            "rule": chosen.rule,
            **({"mu": self.mu} if self.ridge is not None else {}),
            "noise": problem.noise,
            "intensity": problem.intensity,
            "iterations": solution.iterations,
            "converged": solution.converged,
            "change": solution.change,
            "gradient_norm": solution.gradient_norm,
            "energy": problem.energy(solution.x) + penalty.energy(solution.x),
            "misfit": problem.misfit(solution.x),
            "expected_misfit": problem.expected_misfit,
        }

    def certify(self, problem: Problem, strength: float, solution: Solution) -> dict[str, Any]:
        """Return what is proven, or was checked, about the problem and its solution.

        With the gradient mapping G and an m-strongly convex data term, `distance` is the bound
        (1/m - 1/L) ||G|| of ||x - x*||, in the image's own units. Where m = 0 it is None, and
        F(x) - F(x*) <= ||G|| ||x - x*||: `energy_gap` is that for a minimiser within ||x|| of x,
        relative to F(x).
        """
        rises = [b - a for a, b in zip(solution.energies, solution.energies[1:], strict=False)]
        final = solution.energies[-1]
        lipschitz, m = 1 + self.penalty(problem, strength).lipschitz, problem.convexity
        distance = (1 / m - 1 / lipschitz) * solution.gradient_norm if m else None
        size = float(solution.x.norm())
        return {
            "convex": self._least_slope() >= 0,
            "adjoint_error": adjoint_error(problem),
            "lipschitz_bound": lipschitz,
            "largest_rise": max(0.0, *rises) / max(abs(final), 1e-30) if rises else 0.0,
            "energy_at_start": solution.energies[0],
            "energy": final,
            "gradient_norm": solution.gradient_norm,
            "strong_convexity": m,
            "distance": None if distance is None else distance * problem.intensity,
            "energy_gap": solution.gradient_norm * size / max(abs(final), 1e-30),
        }

    def _least_slope(self) -> float:
        """Return the least slope of all activations: the potentials are convex from 0 on."""
        if self.ridge is None:
            return 0.0
        places = torch.linspace(-1, 1, 2001, dtype=torch.float64, device=self.ridge.kernel.device)
        activation = self.ridge.activation.to(torch.float64)
        table = activation(places.expand(1, self.ridge.channels, 1, -1).contiguous())
        least = float(table.diff(dim=-1).min())
        return 0.0 if abs(least) < 1e-12 else least


def adjoint_error(problem: Problem) -> float:
    """Return |<H x, y> - <x, H^T y>| / (||H x|| ||y||) for a random image and random data."""
    image = torch.randn(problem.start.shape, generator=stream(0, 2)).to(problem.start)
    mapped = problem.operator(image)
    real = torch.randn(mapped.shape, generator=stream(0, 3))
    imaginary = torch.randn(mapped.shape, generator=stream(0, 4))
    data = (torch.complex(real, imaginary) if mapped.is_complex() else real).to(mapped)
    back = problem.operator.adjoint(data)
    wide = widest(mapped)
    there = float((mapped.to(wide).conj() * data.to(wide)).sum().real)
    here = float((image.double() * back.double()).sum())
    return abs(there - here) / max(float(mapped.norm() * data.norm()), 1e-30)


def find_root(function: Callable[[float], float], first: float) -> tuple[float, float]:
    """Return x > 0 where an increasing function is about 0, and its value there.

    Stops when the value is within `MATCH`, after `SEARCHES` evaluations, or further than a factor
    of `REACH` from `first`; then the point with the smallest value is returned.
    """
    seen: dict[float, float] = {}
    x = first
    while len(seen) < SEARCHES and 1 / REACH <= x / first <= REACH:
        seen[x] = value = function(x)
        if abs(value) <= MATCH:
            return x, value
        below = [point for point, v in seen.items() if v < 0]
        above = [point for point, v in seen.items() if v >= 0]
        if below and above:
            low, high = max(below), min(above)
            part = -seen[low] / (seen[high] - seen[low])
            x = low * (high / low) ** min(max(part, 0.1), 0.9)
        else:
            stride = 3.0 ** len(seen)  # ever longer steps until there is a bracket
            x = max(seen) * stride if below else min(seen) / stride
    best = min(seen, key=lambda point: abs(seen[point]))
    return best, seen[best]
