from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from mlkit.tasks.upscale.losses import (
    MetaObjective,
    PairObjective,
    Task,
    inner_losses,
    step_weights,
)
from mlkit.tasks.upscale.model import Network

from .helpers import network


def task(patches: int = 2, side: int = 8, seed: int = 0) -> Task:
    draw = torch.Generator().manual_seed(seed)
    parts = [
        torch.rand(patches, 3, side, side, generator=draw, dtype=torch.float64) for _ in "abcd"
    ]
    return Task(*parts)


def batch(count: int) -> Task:
    tasks = [task(seed=seed) for seed in range(count)]
    return Task(*(torch.stack(parts) for parts in zip(*tasks, strict=True)))


def meta_gradient(net: Network, one: Task, steps: int, second_order: bool = True) -> list[Tensor]:
    losses = inner_losses(net, one, steps, second_order)
    return list(torch.autograd.grad(torch.stack(losses).mean(), list(net.parameters())))


def functional(net: Network, one: Task, steps: int) -> dict[str, Tensor]:
    """The meta-gradient written with torch.func, as a function of weights and step sizes."""
    start = {name: p.detach() for name, p in net.named_parameters()}

    def error(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        full = {**weights, "log_rates": start["log_rates"]}
        return (functional_call(net, full, (x,)) - y).abs().mean()

    def outer(parameters: dict[str, Tensor]) -> Tensor:
        rates = parameters["log_rates"].exp()
        weights = {name: p for name, p in parameters.items() if name != "log_rates"}
        total = torch.zeros((), dtype=torch.float64)
        for step in range(steps):
            slope = grad(error)(weights, one.support, one.support_target)
            weights = {
                name: w - rates[step, i] * slope[name]
                for i, (name, w) in enumerate(weights.items())
            }
            total = total + error(weights, one.query, one.query_target) / steps
        return total

    return grad(outer)(start)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_is_that_of_torch_func(steps: int) -> None:
    net = network().double()
    wanted = functional(net, task(), steps)
    found = meta_gradient(net, task(), steps)
    for (name, _), gradient in zip(net.named_parameters(), found, strict=True):
        torch.testing.assert_close(gradient, wanted[name])


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    net, one = network().double(), task()
    gradients = meta_gradient(net, one, 1)
    draw, h = torch.Generator().manual_seed(3), 1e-7
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
            values.append(float(inner_losses(net, one, 1)[0].detach()))
            with torch.no_grad():
                parameter -= sign * h * direction
        slope = (values[0] - values[1]) / (2 * h)
        assert float((gradient * direction).sum()) == pytest.approx(slope, abs=1e-6)


def test_first_order_takes_the_inner_gradients_as_given() -> None:
    net, one = network().double(), task()
    found = meta_gradient(net, one, 1, second_order=False)
    weights = {name: w.detach().clone() for name, w in net.weights().items()}
    inner = [w.requires_grad_() for w in weights.values()]

    def error(x: Tensor, y: Tensor) -> Tensor:
        full = {**weights, "log_rates": net.log_rates.detach()}
        return (functional_call(net, full, (x,)) - y).abs().mean()

    slopes = torch.autograd.grad(error(one.support, one.support_target), inner)
    rates = net.rates(0).detach()
    for (name, weight), slope, rate in zip(list(weights.items()), slopes, rates, strict=True):
        weights[name] = (weight.detach() - rate * slope).requires_grad_()
    outer = torch.autograd.grad(error(one.query, one.query_target), list(weights.values()))
    names = [name for name, _ in net.named_parameters() if name != "log_rates"]
    of = dict(zip(dict(net.named_parameters()), found, strict=True))
    for name, wanted in zip(names, outer, strict=True):
        torch.testing.assert_close(of[name], wanted)
    exact = dict(zip(of, meta_gradient(net, one, 1), strict=True))
    assert not torch.allclose(of["conv2.weight"], exact["conv2.weight"], atol=1e-5)


def test_with_steps_of_size_zero_it_is_the_plain_gradient() -> None:
    net, one = network().double(), task()
    with torch.no_grad():
        net.log_rates.fill_(-torch.inf)
    losses = inner_losses(net, one, 2)
    plain = (net(one.query) - one.query_target).abs().mean()
    weights = list(net.weights().values())
    found = torch.autograd.grad(torch.stack(losses).mean(), weights)
    for a, b in zip(found, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(a, b)


def test_step_weights() -> None:
    for kind in ("equal", "annealed", "last"):
        for iteration in (0, 1, 700, 3230, 10**6):
            weights = step_weights(kind, 5, iteration)  # type: ignore[arg-type]
            assert float(weights.sum()) == pytest.approx(1)
            assert bool((weights >= 0).all())
    assert step_weights("equal", 4, 99).tolist() == [0.25] * 4
    assert step_weights("annealed", 5, 0).tolist() == pytest.approx([0.2] * 5)
    assert step_weights("annealed", 5, 3234).tolist() == pytest.approx([0.006] * 4 + [0.976])
    assert step_weights("annealed", 5, 3230)[0] > 0.006
    assert step_weights("last", 3, 0).tolist() == [0, 0, 1]


def test_the_objective_is_the_weighted_mean_over_tasks() -> None:
    net = network().double()
    objective = MetaObjective(net, 2, 2, weights="annealed")
    objective.seen.fill_(2 * 1000)
    found = objective(batch(3))
    each = torch.stack([torch.stack(inner_losses(net, task(seed=s), 2)) for s in range(3)])
    weights = step_weights("annealed", 2, 1000).double()
    torch.testing.assert_close(found["loss"], (each.mean(0) * weights).sum())
    torch.testing.assert_close(found["last"], each[:, 1].mean())
    assert int(objective.seen) == 2003
    assert not MetaObjective(net, 2, 2, learn_rates=False).model.log_rates.requires_grad


def test_tasks_do_not_see_each_other() -> None:
    net = network().double()
    losses = [float(MetaObjective(net, 2, 1)(batch(n))["loss"].detach()) for n in (1, 2)]
    alone = float(torch.stack(inner_losses(net, task(seed=1), 2)).mean().detach())
    assert losses[1] == pytest.approx((losses[0] + alone) / 2, rel=1e-6)


def test_pairs_have_the_absolute_error() -> None:
    net = network()
    x, y = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    found = PairObjective(net)((x, y))["loss"]
    torch.testing.assert_close(found, torch.nn.functional.l1_loss(net(x), y))
    assert not net.log_rates.requires_grad
