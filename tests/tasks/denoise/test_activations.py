from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from mlkit.tasks.denoise.activations import Activation, LinearSplines, Rectifiers, project

SPAN = 0.1


def splines(seed: int = 0, channels: int = 3) -> LinearSplines:
    generator = torch.Generator().manual_seed(seed)
    free = 0.05 * torch.randn(channels, 21, generator=generator, dtype=torch.float64)
    return LinearSplines(project(free), SPAN)


def rectifiers() -> Rectifiers:
    return Rectifiers(torch.tensor([-0.03, 0.0, 0.04], dtype=torch.float64), 0.7)


BOTH = pytest.mark.parametrize("activation", [splines(), rectifiers()], ids=["spline", "relu"])
POINTS = torch.linspace(-0.17, 0.17, 4 * 5, dtype=torch.float64).view(1, 1, 4, 5).expand(1, 3, 4, 5)


def test_projected_tables_are_monotone_flat_at_the_ends_and_zero_at_zero() -> None:
    free = torch.randn(50, 21, generator=torch.Generator().manual_seed(1))
    values = project(free)
    assert bool((values.diff(dim=1) >= 0).all())
    assert bool((values[:, 10] == 0).all())
    assert bool((values[:, 0] == values[:, 1]).all())
    assert bool((values[:, -1] == values[:, -2]).all())
    torch.testing.assert_close(project(values), values)


def test_projection_passes_gradients_where_slopes_are_zero() -> None:
    free = torch.zeros(2, 21, requires_grad=True)
    project(free)[:, 15].sum().backward()
    assert free.grad is not None
    assert float(free.grad.abs().sum()) > 0


def test_values_are_those_of_linear_interpolation() -> None:
    activation = splines()
    found = activation(POINTS)
    knots = np.linspace(-SPAN, SPAN, 21)
    for channel, table in enumerate(activation.values):
        expected = np.interp(POINTS[0, channel].numpy(), knots, table.numpy())
        np.testing.assert_allclose(found[0, channel].numpy(), expected, atol=1e-12)


@BOTH
def test_constant_or_linear_beyond_the_knots_and_never_falling(activation: Activation) -> None:
    v = torch.linspace(-1, 1, 2001, dtype=torch.float64).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    rises = activation(v).diff(dim=-1)
    assert float(rises.min()) >= -1e-15
    torch.testing.assert_close(rises.amax((0, 2, 3)) / 1e-3, activation.slopes(), rtol=0.2, atol=0)
    assert bool((rises.amax((0, 2, 3)) / 1e-3 <= activation.slopes() + 1e-9).all())


@BOTH
def test_the_integral_is_the_integral(activation: Activation) -> None:
    found = activation.integral(POINTS)
    for channel in range(3):

        def sigma(v: float, channel: int = channel) -> float:
            point = torch.full((1, 3, 1, 1), v, dtype=torch.float64)
            return float(activation(point)[0, channel])

        for place in ((0, 0), (1, 3), (2, 2), (3, 4)):
            end = float(POINTS[0, channel][place])
            knots = [k for k in np.linspace(-0.1, 0.1, 21) if min(0, end) < k < max(0, end)]
            expected = quad(sigma, 0, end, points=knots or None, limit=200)[0]
            assert float(found[0, channel][place]) == pytest.approx(expected, abs=1e-9)


@BOTH
def test_autograd_of_the_integral_is_the_activation(activation: Activation) -> None:
    v = POINTS.clone().requires_grad_()
    activation.integral(v).sum().backward()
    torch.testing.assert_close(v.grad, activation(POINTS), atol=1e-12, rtol=0)


@BOTH
def test_the_fast_form_is_the_same(activation: Activation) -> None:
    torch.testing.assert_close(activation.fast(POINTS.clone()), activation(POINTS))
    few = LinearSplines(project(torch.linspace(-1, 1, 21).clamp(-0.1, 0.2).expand(3, 21)), SPAN)
    points = POINTS.float()
    torch.testing.assert_close(few.fast(points), few(points), atol=1e-6, rtol=0)


@BOTH
def test_scaling_and_selecting(activation: Activation) -> None:
    scaled = activation.scaled(3.0, 1.7)
    torch.testing.assert_close(scaled(POINTS), 3 * activation(1.7 * POINTS), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.slopes(), 3 * 1.7 * activation.slopes())
    keep = torch.tensor([True, False, True])
    torch.testing.assert_close(
        activation.select(keep)(POINTS[:, keep]), activation(POINTS)[:, keep]
    )


def test_gradients_with_respect_to_points_and_values() -> None:
    generator = torch.Generator().manual_seed(2)
    v = (0.05 * torch.randn(2, 3, 4, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    values = splines().values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: LinearSplines(b, SPAN)(a), (v, values), eps=1e-8)


def test_bend_is_the_sum_of_slope_changes() -> None:
    activation = splines()
    slopes = np.diff(activation.values.numpy(), axis=1) / 0.01
    expected = np.abs(np.diff(slopes, axis=1)).sum(1)
    np.testing.assert_allclose(activation.bend().numpy(), expected)
