from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mlkit.tasks.denoise.reconstruction.variation import TotalVariation
from mlkit.tasks.denoise.tv import differences, differences_adjoint

from .helpers import random


def objective(x: torch.Tensor, v: torch.Tensor, weight: float) -> torch.Tensor:
    lengths = differences(x).square().sum(1)
    return 0.5 * (x - v).square().sum() + weight * (lengths + 1e-12).sqrt().sum()


@pytest.mark.parametrize("positive", [False, True])
def test_the_prox_is_the_minimiser_that_scipy_finds(positive: bool) -> None:
    v = random(1, 1, 6, 5, seed=3).double()
    found = TotalVariation(0.4, positive, inner=3000).prox(v)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat.reshape(1, 1, 6, 5)).requires_grad_()
        loss = objective(x, v, 0.4)
        (slope,) = torch.autograd.grad(loss, x)
        return float(loss.detach()), slope.numpy().ravel()

    bounds = [(0, None)] * 30 if positive else None
    start = v.clamp_min(0).numpy().ravel()
    peer = minimize(value, start, jac=True, bounds=bounds, method="L-BFGS-B", tol=1e-14)
    assert float(objective(found, v, 0.4)) <= peer.fun + 1e-5
    assert float(found.min()) >= 0 or not positive


def test_a_warm_dual_goes_on_where_it_was() -> None:
    v = random(1, 1, 16, 16)
    exact = TotalVariation(0.3, False, inner=3000).prox(v)
    patient = TotalVariation(0.3, False, inner=10)
    errors = [float((patient.prox(v) - exact).norm()) for _ in range(40)]
    assert errors[-1] < 0.02 * errors[0]
    assert patient.prox(random(2, 1, 8, 8)).shape == (2, 1, 8, 8)  # another size begins anew


def test_no_weight_is_no_penalty_and_much_weight_flattens() -> None:
    v = random(1, 1, 8, 8)
    assert torch.equal(TotalVariation(0.0, False).prox(v), v)
    assert torch.equal(TotalVariation(0.0, True).prox(v), v.clamp_min(0))
    flat = TotalVariation(100.0, False, inner=2000).prox(v)
    torch.testing.assert_close(flat, torch.full_like(v, float(v.mean())), atol=1e-3, rtol=0)


def test_the_energy_of_a_step_is_its_perimeter() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., :, 4:] = 1
    assert TotalVariation(2.0, False).energy(image) == pytest.approx(2.0 * 8)
    assert float((differences(image) * differences(image)).sum()) == pytest.approx(
        float((image * differences_adjoint(differences(image))).sum())
    )
