from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from mlkit.core.solvers import accelerated_gradient, adaptive_gradient
from mlkit.tasks.denoise.certificate import certify
from mlkit.tasks.denoise.problem import Denoising
from mlkit.tasks.denoise.tv import (
    denoise_tv,
    differences,
    differences_adjoint,
    total_variation,
)

from .helpers import huber_tv, noise, picture, random_ridge


def problem(seed: int = 0, sigma: float = 25, strength: float = 2.0) -> Denoising:
    clean = picture(18, 21)
    return Denoising.of(clean + noise(clean, sigma, seed), random_ridge().scaled(strength, 1.5))


def reference(task: Denoising) -> Tensor:
    """The minimiser from scipy's L-BFGS in float64."""

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat).view_as(task.y)
        with torch.no_grad():
            return task.objective(x), task.gradient(x).numpy().ravel()

    options = {"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-11}
    start = task.y.numpy().ravel()
    found = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view_as(task.y)


def test_equal_to_a_reference_solver() -> None:
    task = problem()
    expected = reference(task)
    found = task.solve(tolerance=1e-9, iterations=5000)
    assert found.converged
    assert float((found.x - expected).norm()) <= 1e-6 * float(expected.norm())
    coarse = task.solve(tolerance=1e-3)
    assert coarse.distance is not None
    assert float((coarse.x - expected).norm()) <= coarse.distance


def test_single_precision_and_tiles_change_next_to_nothing() -> None:
    task = problem()
    expected = task.solve(tolerance=1e-9, iterations=5000).x
    single = replace(task, y=task.y.float(), ridge=task.ridge.to(torch.float32))
    tiled = replace(single, ridge=replace(single.ridge, tile=16))
    for candidate in (single, tiled):
        found = candidate.solve(tolerance=1e-5)
        assert found.converged
        assert float((found.x - expected).norm()) <= 1.5e-5 * float(expected.norm())


def test_acceleration_and_adaptive_descent_reach_the_same_energy() -> None:
    task = problem()
    with torch.no_grad():
        found = [
            accelerated_gradient(
                task.gradient,
                task.y,
                lipschitz=1 + task.ridge.lipschitz(),
                tolerance=1e-8,
                iterations=4000,
            ),
            adaptive_gradient(task.gradient, task.y, tolerance=1e-8, iterations=4000),
        ]
        energies = [task.objective(solution.x) for solution in found]
    assert all(solution.converged for solution in found)
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


def test_the_solution_map_does_not_expand() -> None:
    for seed in range(4):
        one, two = problem(seed), problem(seed + 10, sigma=60)
        a, b = one.solve(tolerance=1e-9), two.solve(tolerance=1e-9)
        moved, shift = a.x - b.x, one.y - two.y
        assert float(moved.norm()) <= float(shift.norm())
        # Firmly: ||a - b||^2 <= <a - b, y1 - y2>.
        assert float(moved.square().sum()) <= float((moved * shift).sum()) + 1e-6


def test_solutions_of_a_linear_problem_are_stable() -> None:
    """||H x1 - H x2|| <= ||y1 - y2|| for H that averages neighbours."""
    ridge = random_ridge().scaled(2.0, 1.5)

    def forward(x: Tensor) -> Tensor:
        return 0.5 * (x + x.roll(1, 3))

    def adjoint(y: Tensor) -> Tensor:
        return 0.5 * (y + y.roll(-1, 3))

    data = [forward(picture(20, 20)) + noise(picture(20, 20), 20, seed) for seed in range(3)]
    with torch.no_grad():
        found = [
            accelerated_gradient(
                lambda x, y=y: adjoint(forward(x) - y) + ridge.gradient(x),
                y,
                lipschitz=1 + ridge.lipschitz(),
                tolerance=1e-9,
                iterations=5000,
            ).x
            for y in data
        ]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        moved = float((forward(found[i]) - forward(found[j])).norm())
        assert moved <= float((data[i] - data[j]).norm())


def test_without_strength_the_image_stays() -> None:
    clean = picture()
    noisy = clean + noise(clean, 25)
    task = Denoising.of(noisy, random_ridge().scaled(1e-9, 1.0))
    torch.testing.assert_close(task.crop(task.solve(tolerance=1e-9).x), noisy, atol=1e-7, rtol=0)


def test_differences_with_clipped_activations_are_huber_total_variation() -> None:
    """The same minimiser as an independent formula of Huber-TV, solved by scipy."""
    y = (picture(12, 13) + noise(picture(12, 13), 25)).numpy()[0, 0]
    strength = 1.5

    def huber(v: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        inside = np.abs(v) <= width
        value = np.where(inside, v * v / 2, width * (np.abs(v) - width / 2))
        return value, np.clip(v, -width, width)

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = flat.reshape(y.shape)
        framed = np.pad(x, 1)  # what lies outside counts as zero
        right, down = framed[1:-1, 2:] - x, framed[2:, 1:-1] - x
        total, slope = 0.5 * ((x - y) ** 2).sum(), x - y
        for v, axis in ((right, 1), (down, 0)):
            value, force = huber(v, 0.05)
            total += strength * value.sum()
            slope = slope - strength * force
            moved = np.roll(force, 1, axis)
            (moved[:, :1] if axis == 1 else moved[:1])[...] = 0
            slope = slope + strength * moved
        return total, slope.ravel()

    options = {"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-12}
    expected = minimize(energy, y.ravel(), jac=True, method="L-BFGS-B", options=options).x
    task = Denoising(torch.from_numpy(y)[None, None], huber_tv().scaled(strength, 1.0), 0)
    found = task.solve(tolerance=1e-10, iterations=5000).x.numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_certificate() -> None:
    task = problem()
    solution = task.solve(tolerance=1e-5, record=True)
    proof = certify(task, solution)
    assert proof.convex
    assert proof.monotone
    error = float((solution.x - reference(task)).norm())
    bound = proof.distance_rms / 255 * solution.x.numel() ** 0.5
    assert error <= bound <= 1.01e-5 * 3 * float(solution.x.norm())
    assert proof.lipschitz == task.ridge.lipschitz()
    assert proof.to_dict()["convex"] is True


def test_the_certificate_can_fail() -> None:
    task = problem()
    solution = task.solve(tolerance=1e-5, record=True)
    values = task.ridge.activation.values.clone()  # type: ignore[attr-defined]
    values[0, 8] += 1.0  # a fall behind this knot
    crooked = replace(task.ridge.activation, values=values)  # type: ignore[type-var]
    broken = replace(task, ridge=replace(task.ridge, activation=crooked))
    risen = replace(solution, energies=[*solution.energies, 2 * solution.energies[-1]])
    proof = certify(broken, risen)
    assert not proof.convex
    assert not proof.monotone
    assert "VIOLATED" in dict(proof.rows())["prior convex"]


# --- total variation ---


def test_differences_and_their_adjoint() -> None:
    x = picture(9, 7)
    p = torch.randn(1, 2, 9, 7, dtype=torch.float64)
    left, right = (differences(x) * p).sum(), (x * differences_adjoint(p)).sum()
    assert float(left) == pytest.approx(float(right), abs=1e-12)


def test_total_variation_by_brute_force() -> None:
    x = picture(6, 5)[0, 0].numpy()
    expected = 0.0
    for i in range(6):
        for j in range(5):
            down = x[i + 1, j] - x[i, j] if i < 5 else 0.0
            right = x[i, j + 1] - x[i, j] if j < 4 else 0.0
            expected += math.hypot(down, right)
    assert float(total_variation(torch.from_numpy(x)[None, None])) == pytest.approx(expected)


def test_tv_denoising_is_optimal() -> None:
    """No other point is better by more than the gap says, and the gap closes."""
    clean = picture(16, 15)
    noisy = clean + noise(clean, 30)
    solution, dual = denoise_tv(noisy, 0.08, tolerance=1e-5, iterations=20_000)
    assert solution.converged
    assert float(dual.square().sum(1).max()) <= 1 + 1e-9

    def energy(x: Tensor) -> float:
        return float(0.5 * (x - noisy).square().sum() + 0.08 * total_variation(x).sum())

    best = energy(solution.x)
    for seed in range(20):
        other = solution.x + noise(solution.x, 2, seed)
        assert energy(other) > best
    assert energy(clean) > best
    short, _ = denoise_tv(noisy, 0.08, tolerance=1e-9, iterations=5)
    assert not short.converged
