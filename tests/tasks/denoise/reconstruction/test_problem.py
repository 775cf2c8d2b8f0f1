from __future__ import annotations

import math

import pytest
import torch

from mlkit.core.operators.base import Identity
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.operators.image import Blur
from mlkit.core.operators.tomography import Beam, Tomography
from mlkit.tasks.denoise.reconstruction.problem import RidgePenalty, amplitude

from .helpers import half_turn, phantom, problem, random, small_ridge

OPERATORS = {
    "ct": lambda: Tomography(Beam(half_turn(9), 33), (24, 24)),
    "mri": lambda: MaskedFourier(random(24) > 0, (24, 24)),
    "blur": lambda: Blur(torch.ones(3, 3) / 9, (24, 24)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_is_that_of_the_energy(name: str) -> None:
    task = problem(OPERATORS[name](), phantom())
    x, direction = random(1, 1, 24, 24, seed=5), random(1, 1, 24, 24, seed=6)
    slope = (task.energy(x + 0.1 * direction) - task.energy(x - 0.1 * direction)) / 0.2
    assert slope == pytest.approx(float((task.gradient(x) * direction).sum()), rel=1e-3)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_normalised_gradient_is_non_expansive(name: str) -> None:
    task = problem(OPERATORS[name](), phantom())
    x, z = random(1, 1, 24, 24, seed=5), random(1, 1, 24, 24, seed=6)
    assert float((task.gradient(x) - task.gradient(z)).norm()) <= float((x - z).norm())


@pytest.mark.parametrize("name", OPERATORS)
def test_the_true_image_misfits_by_the_noise(name: str) -> None:
    task = problem(OPERATORS[name](), phantom(), noise=0.1)
    if name == "mri":  # noise outside of the mask is not measured
        task.data.mul_(task.operator.get_buffer("mask"))
        object.__setattr__(task, "numbers", 2 * int(task.operator.get_buffer("mask").sum()))
    assert task.misfit(phantom()) == pytest.approx(task.expected_misfit, rel=0.1)


def test_gradient_noise_is_what_noise_does_to_the_gradient() -> None:
    operator = OPERATORS["ct"]()
    clean, noisy = problem(operator, phantom(), 0.0), problem(operator, phantom(), 0.3)
    found = (noisy.gradient(phantom()) - clean.gradient(phantom())).std()
    assert noisy.gradient_noise() == pytest.approx(float(found), rel=0.1)


def test_convexity_is_proven_only_where_it_can_be() -> None:
    assert problem(Identity((24, 24)), phantom()).convexity == pytest.approx(1, rel=0.02)
    assert problem(OPERATORS["ct"](), phantom()).convexity == 0


def test_the_penalty_is_a_function_and_its_gradient() -> None:
    penalty = RidgePenalty(small_ridge().scaled(0.7, 3.0), positive=True)
    x, direction = random(1, 1, 12, 12, seed=1), random(1, 1, 12, 12, seed=2)
    with torch.no_grad():
        slope = (penalty.energy(x + 1e-3 * direction) - penalty.energy(x - 1e-3 * direction)) / 2e-3
        assert slope == pytest.approx(float((penalty.gradient(x) * direction).sum()), rel=1e-3)
        z = random(1, 1, 12, 12, seed=3)
        change = (penalty.gradient(x) - penalty.gradient(z)).norm()
    assert float(change) <= penalty.lipschitz * float((x - z).norm())
    assert float(penalty.prox(x, 1.0).min()) == 0


def test_amplitude_is_the_push_of_saturated_activations() -> None:
    """Half range 0.02 of two filters of squared norm 2: 0.02 * sqrt(4)."""
    assert amplitude(small_ridge()) == pytest.approx(0.02 * math.sqrt(4), rel=0.01)
    scaled = small_ridge().scaled(5.0, 3.0)
    assert amplitude(scaled) == pytest.approx(5 * amplitude(small_ridge()), rel=1e-4)
