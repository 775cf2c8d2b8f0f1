from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mlkit.core.errors import DataError
from mlkit.core.operators.base import Identity
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.operators.image import Blur, Mask
from mlkit.core.operators.tomography import Beam, Tomography
from mlkit.core.progress import Silent
from mlkit.tasks.denoise.reconstruction.config import SolveOptions
from mlkit.tasks.denoise.reconstruction.problem import Problem
from mlkit.tasks.denoise.reconstruction.solve import Reconstructor, adjoint_error, find_root

from .helpers import half_turn, phantom, problem, random, small_ridge

SIZE = 16


def ct() -> Tomography:
    return Tomography(Beam(half_turn(9), 23), (SIZE, SIZE))


def tool(method: str = "crr", **options: object) -> Reconstructor:
    ridge = small_ridge() if method == "crr" else None
    settings = {"tol": 1e-6, "iterations": 5000, "mu": 4.0, **options}
    return Reconstructor("ct", ridge, SolveOptions.create(**settings))


@pytest.mark.parametrize("positive", [False, True])
def test_the_solution_is_that_of_a_reference_solver_in_double_precision(positive: bool) -> None:
    operator = Blur(torch.ones(3, 3) / 9, (10, 10))
    task = problem(operator, phantom(10), positive=positive)
    found = tool(tol=1e-7).solve(task, 0.5, task.start).x
    ridge = tool().ridge
    assert ridge is not None
    ridge = ridge.to(torch.float64).scaled(0.5, 4.0)
    wide = operator.double()

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat.reshape(1, 1, 10, 10))
        residual = wide(x) - task.data.double()
        with torch.no_grad():
            energy = 0.5 * residual.square().sum() / task.norm**2 + ridge.energy(x).sum()
            slope = wide.adjoint(residual) / task.norm**2 + ridge.gradient(x)
        return float(energy), slope.numpy().ravel()

    bounds = [(0, None)] * 100 if positive else None
    options = {"maxiter": 20000, "maxfun": 50000, "ftol": 1e-15, "gtol": 1e-10}
    peer = minimize(
        value, np.full(100, 0.2), jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    energy, _ = value(found.double().numpy().ravel())
    assert energy == pytest.approx(peer.fun, rel=1e-6)
    np.testing.assert_allclose(found.numpy().ravel(), peer.x, atol=2e-3)


@pytest.mark.parametrize("method", ["crr", "tv"])
@pytest.mark.parametrize("name", ["ct", "mri"])
def test_images_move_no_further_than_the_data(method: str, name: str) -> None:
    """||H x1 - H x2|| <= ||y1 - y2|| at convergence (firm non-expansiveness)."""
    operator = ct() if name == "ct" else MaskedFourier(random(SIZE) > -0.2, (SIZE, SIZE))
    first = problem(operator, phantom(SIZE), seed=1)
    solver = tool(method, tol=1e-5)
    strength = solver.usual_strength(first)
    images = []
    tasks = [first, problem(operator, phantom(SIZE), seed=8)]
    for task in tasks:
        images.append(solver.solve(task, strength, task.start).x)
    moved = (operator(images[0]) - operator(images[1])).norm()
    given = (tasks[0].data - tasks[1].data).norm()
    assert 0 < float(moved) <= float(given) * (1 + 1e-4)


@pytest.mark.parametrize("method", ["crr", "tv"])
def test_full_data_and_no_noise_return_the_image(method: str) -> None:
    task = problem(MaskedFourier(torch.ones(SIZE, SIZE), (SIZE, SIZE)), phantom(SIZE), noise=0.0)
    found = tool(method).solve(task, 1e-6, task.start).x
    torch.testing.assert_close(found, phantom(SIZE), atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", ["crr", "tv"])
def test_it_beats_the_unregularised_image(method: str) -> None:
    task = problem(ct(), phantom(SIZE), noise=0.3)
    solver = tool(method, iterations=400, tol=1e-4)
    plain = solver.solve(task, 1e-9, task.start).x
    better = solver.solve(task, solver.usual_strength(task), task.start).x
    assert float((better - phantom(SIZE)).norm()) < 0.8 * float((plain - phantom(SIZE)).norm())


def test_the_energy_never_rises_and_the_certificate_says_so() -> None:
    task = problem(ct(), phantom(SIZE))
    image, report = tool(certify=True, strength="0.3").reconstruct(task)
    certificate = report["certificate"]
    assert report["rule"] == "given"
    assert report["lambda"] == 0.3
    assert certificate["convex"]
    assert certificate["largest_rise"] < 1e-6
    assert certificate["energy"] < certificate["energy_at_start"]
    assert certificate["adjoint_error"] < 1e-6
    assert certificate["distance"] is None
    assert certificate["energy_gap"] < 1e-3
    assert float(image.min()) >= 0


def test_the_distance_bound_holds_where_the_data_term_is_strongly_convex() -> None:
    task = problem(Identity((SIZE, SIZE)), phantom(SIZE), noise=0.1)
    rough, report = tool(certify=True, strength="0.5", tol=0.05).reconstruct(task)
    exact = tool(tol=1e-7).solve(task, 0.5, task.start).x
    bound = report["certificate"]["distance"]
    assert 0 < float((rough - exact).norm()) <= bound * 1.02
    assert report["certificate"]["strong_convexity"] == pytest.approx(1, rel=0.02)


def test_a_prior_that_is_not_convex_is_called_so() -> None:
    ridge = small_ridge()
    values = ridge.activation.values.clone()  # type: ignore[attr-defined]
    values[0, 11:] -= 0.03
    broken = dataclasses.replace(
        ridge,
        activation=dataclasses.replace(ridge.activation, values=values),  # type: ignore[type-var]
    )
    task = problem(ct(), phantom(SIZE))
    options = SolveOptions(certify=True, best_effort=True, iterations=3, strength="0.1")
    _, report = Reconstructor("ct", broken, options).reconstruct(task)
    assert not report["certificate"]["convex"]


def test_an_operator_without_its_transpose_is_called_so() -> None:
    class Wrong(Mask):
        def _transpose(self, data: torch.Tensor) -> torch.Tensor:
            return super()._transpose(data).roll(1, -1)

    task = problem(Wrong(random(SIZE, SIZE) > 0), phantom(SIZE))
    assert adjoint_error(task) > 1e-3


def test_a_run_that_did_not_converge_is_an_error_unless_accepted() -> None:
    task = problem(ct(), phantom(SIZE))
    with pytest.raises(DataError, match="not converged after 5 iterations") as error:
        tool(iterations=5).reconstruct(task)
    assert "--best-effort" in error.value.hint
    _, report = tool(iterations=5, best_effort=True).reconstruct(task)
    assert not report["converged"]


@pytest.mark.parametrize("method", ["crr", "tv"])
def test_the_discrepancy_principle_meets_the_noise(method: str) -> None:
    task = problem(ct(), phantom(SIZE), noise=0.3)
    options = {"strength": "discrepancy", "tol": 1e-5}
    _, report = tool(method, **options).reconstruct(task)
    assert report["misfit"] == pytest.approx(task.expected_misfit, rel=0.05)
    assert report["rule"] == "discrepancy principle"


def test_noise_that_no_image_leaves_is_warned_of() -> None:
    task = problem(Identity((SIZE, SIZE)), phantom(SIZE), noise=0.1)
    wrong = dataclasses.replace(task, noise=50.0)
    listener = Silent()
    solver = tool(strength="discrepancy", tol=1e-3, iterations=200, best_effort=True)
    _, report = solver.reconstruct(wrong, listener)
    assert "is --noise right?" in listener.warnings[0]
    assert report["rule"] == "proportional to the noise"


@pytest.mark.parametrize("first", [0.02, 6.9, 5e3])
def test_roots_are_found_from_afar(first: float) -> None:
    x, value = find_root(lambda s: math.log(s / 7), first)
    assert abs(value) <= 0.02
    assert x == pytest.approx(7, rel=0.03)


def test_units_of_data_and_image_do_not_matter() -> None:
    """Millimetres or metres, counts or thousands: the same picture."""
    task = problem(ct(), phantom(SIZE), noise=0.3)
    image, report = tool().reconstruct(task)
    scaled = Problem(
        task.operator, 50 * task.data, task.start, task.numbers, 50 * task.noise, True, 50.0,
        task.norm,
    )  # fmt: skip
    other, second = tool().reconstruct(scaled)
    torch.testing.assert_close(other, 50 * image, rtol=1e-3, atol=1e-2)
    assert second["lambda"] == pytest.approx(report["lambda"], rel=1e-4)
