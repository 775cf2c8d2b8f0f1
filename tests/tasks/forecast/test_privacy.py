from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from mlkit.core.runtime import stream
from mlkit.tasks.forecast.privacy import aggregate, clip_rows, epsilon, private_mean, renyi


def test_averages() -> None:
    weights = torch.randn(7, 11)
    same = weights[:1].expand(5, -1)
    for kind in ("mean", "median", "trimmed"):
        torch.testing.assert_close(aggregate(same, torch.ones(5), kind), weights[:1])
    counts = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    wanted = np.average(weights.numpy(), axis=0, weights=counts.numpy())
    torch.testing.assert_close(aggregate(weights, counts, "mean")[0], torch.from_numpy(wanted))
    wanted = np.median(weights.numpy(), axis=0)
    assert torch.allclose(aggregate(weights, counts, "median")[0], torch.from_numpy(wanted))
    wanted = stats.trim_mean(weights.numpy(), 1 / 7, axis=0)
    assert torch.allclose(aggregate(weights, counts, "trimmed")[0], torch.from_numpy(wanted))


def test_one_liar_moves_the_mean_alone() -> None:
    weights = torch.randn(9, 4)
    lied = weights.clone()
    lied[3] = 1e6
    for kind, bears in (("mean", False), ("median", True), ("trimmed", True)):
        found = aggregate(lied, torch.ones(9), kind)  # type: ignore[arg-type]
        assert bool((found.abs() < 10).all()) is bears


def test_clipping_bounds_what_a_node_can_do() -> None:
    updates = torch.randn(5, 20) * torch.tensor([0.01, 1, 10, 100, 0])[:, None]
    clipped = clip_rows(updates, 2.0)
    assert bool((clipped.norm(dim=1) <= 2 + 1e-5).all())
    assert torch.equal(clipped[0], updates[0])
    before = torch.zeros(1, 20)
    with_, without = (
        private_mean(before, rows, 5, 2.0, 0.0, stream(0)) for rows in (updates, updates[:-2])
    )
    assert float((with_ - without).norm()) <= 2 / 5 + 1e-5
    noisy = private_mean(torch.zeros(1, 50_000), torch.zeros(3, 50_000), 4, 2.0, 1.5, stream(1))
    assert float(noisy.std()) == pytest.approx(1.5 * 2 / 4, rel=0.02)


def exact_renyi(order: int, rate: float, noise: float) -> float:
    """Integrate (p / q)^alpha q for p = (1 - r) N(0, z^2) + r N(1, z^2), q = N(0, z^2)."""

    def integrand(x: float) -> float:
        q = stats.norm.pdf(x, 0, noise)
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * noise**2))
        return q * ratio**order

    total, _ = integrate.quad(integrand, -40 * noise, 40 * noise + order, limit=500,
                              points=[0, order])  # fmt: skip
    return math.log(total) / (order - 1)


@pytest.mark.parametrize(("order", "rate", "noise"), [(2, 0.1, 1.0), (5, 0.3, 2.0), (8, 0.01, 1.1)])
def test_accountant_against_integration(order: int, rate: float, noise: float) -> None:
    assert renyi(order, rate, noise) == pytest.approx(exact_renyi(order, rate, noise), rel=1e-5)


def test_epsilon() -> None:
    assert renyi(6, 1.0, 2.0) == pytest.approx(6 / 8)
    assert renyi(6, 1 - 1e-12, 2.0) == pytest.approx(6 / 8, rel=1e-6)
    assert epsilon(0, 1, 1, 1e-5) == 0
    assert epsilon(3, 1, 0, 1e-5) == math.inf
    rounds = [epsilon(n, 0.1, 1.0, 1e-5) for n in (1, 10, 100)]
    assert rounds == sorted(rounds)
    assert epsilon(10, 0.1, 1.0, 1e-5) < epsilon(10, 1.0, 1.0, 1e-5)
    # Abadi et al. 2016: q = 0.01, noise 4, 10,000 steps, delta 1e-5 cost about 1.26.
    assert epsilon(10_000, 0.01, 4.0, 1e-5) == pytest.approx(1.26, abs=0.3)
