from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mlkit.core.errors import DivergedError
from mlkit.core.solvers import Solution, accelerated_gradient, adaptive_gradient


class LeastSquares:
    """f(x) = 0.5 * ||A x - b||^2 with a known spectrum between `low` and 1."""

    def __init__(self, low: float, size: int = 30) -> None:
        generator = torch.Generator().manual_seed(0)
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator).double())
        self.matrix = basis @ torch.diag(torch.logspace(math.log10(low), 0, size)).double()
        self.target = torch.randn(size, generator=generator).double()
        self.low = low

    def gradient(self, x: Tensor) -> Tensor:
        return self.matrix.T @ (self.matrix @ x - self.target)

    def energy(self, x: Tensor) -> float:
        return float((self.matrix @ x - self.target).square().sum() / 2)

    def solution(self) -> Tensor:
        return torch.linalg.solve(self.matrix, self.target)


def accelerated(problem: LeastSquares, **options: object) -> Solution:
    start = torch.zeros_like(problem.target)
    return accelerated_gradient(problem.gradient, start, lipschitz=1.0, **options)  # type: ignore[arg-type]


def adaptive(problem: LeastSquares, **options: object) -> Solution:
    start = torch.zeros_like(problem.target)
    return adaptive_gradient(problem.gradient, start, **options)  # type: ignore[arg-type]


SOLVERS = pytest.mark.parametrize("solve", [accelerated, adaptive])


@SOLVERS
def test_both_find_the_minimiser(solve: Callable[..., Solution]) -> None:
    problem = LeastSquares(0.2)
    found = solve(problem, tolerance=1e-12, iterations=5000)
    assert found.converged
    torch.testing.assert_close(found.x, problem.solution(), rtol=1e-8, atol=1e-8)


@SOLVERS
def test_the_bound_of_the_distance_holds(solve: Callable[..., Solution]) -> None:
    problem = LeastSquares(0.2)
    for tolerance in (1e-1, 1e-3, 1e-6):
        found = solve(problem, tolerance=tolerance, strong_convexity=0.2**2)
        error = float((found.x - problem.solution()).norm())
        assert found.converged
        assert found.distance is not None
        assert error <= found.distance <= tolerance * float(found.x.norm())


@SOLVERS
def test_bounds_are_kept(solve: Callable[..., Solution]) -> None:
    from scipy.optimize import nnls

    problem = LeastSquares(0.2)
    expected = torch.from_numpy(nnls(problem.matrix.numpy(), problem.target.numpy())[0])
    found = solve(
        problem,
        project=lambda x: x.clamp(min=0),
        strong_convexity=0.2**2,
        tolerance=1e-9,
        iterations=5000,
    )
    assert found.converged
    assert bool((found.x >= 0).all())
    error = float((found.x - expected).norm())
    assert error < 1e-6
    assert found.gradient_norm < 1e-6
    if solve is accelerated:
        assert found.distance is not None
        assert error <= found.distance


def test_acceleration_needs_far_fewer_steps_than_plain_descent() -> None:
    problem = LeastSquares(0.03)
    found = accelerated(problem, tolerance=1e-8, iterations=10_000)
    x, steps = torch.zeros_like(problem.target), 0
    while problem.energy(x) > problem.energy(found.x) + 1e-12 and steps < 20_000:
        x, steps = x - problem.gradient(x), steps + 1
    assert found.restarts > 0
    assert found.iterations < steps / 4


def test_with_an_energy_no_step_raises_it() -> None:
    problem = LeastSquares(0.01)
    free = accelerated(problem, tolerance=1e-9, iterations=400)
    found = accelerated(problem, tolerance=1e-9, iterations=400, energy=problem.energy)
    energies = torch.tensor(found.energies)
    assert len(energies) == found.iterations - found.restarts + 1
    assert bool((energies.diff() <= 1e-6 * energies[:-1]).all())
    assert problem.energy(found.x) <= problem.energy(free.x) * 1.01


@SOLVERS
def test_a_run_that_was_too_short_says_so(solve: Callable[..., Solution]) -> None:
    found = solve(LeastSquares(0.01), tolerance=1e-12, iterations=3)
    assert not found.converged
    assert found.iterations == 3


def test_a_constant_that_is_too_small_is_noticed() -> None:
    problem = LeastSquares(0.5)
    with pytest.raises(DivergedError, match="diverged in iteration"):
        accelerated_gradient(
            problem.gradient, torch.zeros(30).double(), lipschitz=1e-3, iterations=10_000
        )


@SOLVERS
def test_a_start_at_the_minimiser_stays_there(solve: Callable[..., Solution]) -> None:
    problem = LeastSquares(0.5)
    problem.target = torch.zeros_like(problem.target)
    found = solve(problem, tolerance=1e-8)
    assert found.converged
    assert bool((found.x == 0).all())
