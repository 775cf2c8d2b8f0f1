from __future__ import annotations

import math

import pytest
import torch

from mlkit.core.runtime import stream
from mlkit.tasks.upscale import adaptation
from mlkit.tasks.upscale.adaptation import Pair, Plan, adapt, detailed_corners, son_pair
from mlkit.tasks.upscale.backprojection import back_project
from mlkit.tasks.upscale.degradation import Degradation, enlarge
from mlkit.tasks.upscale.kernels import gaussian
from mlkit.tasks.upscale.model import apply
from mlkit.tasks.upscale.scratch import _is_flat, train_from_scratch

from .helpers import network, picture

BLUR = Degradation(gaussian(2, 2, 0).float(), 2, "direct")


def pair(seed: int = 0) -> Pair:
    return son_pair(picture(32, 40, seed)[None], BLUR, margin=3)


def test_the_pair_is_the_image_reduced_once_more() -> None:
    image = picture(33, 41)[None]
    found = son_pair(image, BLUR, margin=3)
    assert torch.equal(found.targets, image[..., :32, :40])
    son = BLUR(found.targets).clamp(0, 1)
    assert torch.equal(found.inputs, enlarge(son, 2, "direct").clamp(0, 1))
    assert torch.equal(son_pair(image, BLUR, aligned=False).inputs, enlarge(son, 2).clamp(0, 1))
    back_projected = son_pair(image, BLUR, rounds=3).inputs
    assert torch.equal(back_projected, back_project(found.inputs, son, BLUR, 3))
    assert found.margin == 0
    noisy = son_pair(image, BLUR, noise=0.1, generator=stream(0, 1))
    assert float((noisy.inputs - found.inputs).std()) > 0.03


def test_of_a_large_image_the_most_detailed_pieces_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = torch.full((1, 3, 96, 96), 0.5)
    image[..., 48:72, 24:48] = picture(24, 24)
    assert detailed_corners(image, 24, 1) == [(48, 24)]
    monkeypatch.setattr(adaptation, "CROP", 18)
    monkeypatch.setattr(adaptation, "CROPS", 2)
    found = son_pair(image, BLUR, margin=3)
    assert found.inputs.shape == (2, 3, 24, 24)
    assert found.margin == 3
    assert torch.equal(found.targets[0], image[0, :, 48:72, 24:48])
    error = (apply(network().weights(), found.inputs) - found.targets).abs()[..., 3:-3, 3:-3]
    torch.testing.assert_close(found.loss(network().weights()), error.mean())


def test_no_step_changes_nothing() -> None:
    net = network()
    found = adapt(net, pair(), Plan(0))
    assert all(torch.equal(found.weights[name], w) for name, w in net.weights().items())
    assert found.losses == [pytest.approx(float(pair().loss(net.weights()).detach()))]


def test_plain_steps_are_gradient_descent() -> None:
    net, one = network(), pair()
    weights = {name: w.detach().clone().requires_grad_() for name, w in net.weights().items()}
    for step in range(3):
        gradients = torch.autograd.grad(one.loss(weights), list(weights.values()))
        weights = {
            name: (w - rate * g).detach().requires_grad_()
            for (name, w), g, rate in zip(weights.items(), gradients, net.rates(step), strict=True)
        }
    found = adapt(net, one, Plan(3, "sgd", snapshots=(3,))).snapshots[3]
    for name, w in weights.items():
        torch.testing.assert_close(found[name], w)
    fixed = adapt(net, one, Plan(1, "sgd", rate=0.05, snapshots=(1,))).snapshots[1]
    first = adapt(net, one, Plan(1, "sgd", snapshots=(1,))).snapshots[1]
    torch.testing.assert_close(fixed["conv1.weight"], first["conv1.weight"])


def test_adam_follows_torch() -> None:
    net, one = network(steps=2), pair()
    weights = {name: w.detach().clone().requires_grad_() for name, w in net.weights().items()}
    adam = torch.optim.Adam(weights.values(), 2e-3)
    for _ in range(2):
        adam.zero_grad()
        one.loss(weights).backward()
        adam.step()
    found = adapt(net, one, Plan(2, "adam", rate=2e-3, snapshots=(2,))).snapshots[2]
    torch.testing.assert_close(found["conv2.weight"], weights["conv2.weight"].detach())


def test_the_best_step_is_kept_even_when_it_diverges() -> None:
    net, one = network(), pair()
    wild = adapt(net, one, Plan(4, "sgd", rate=1.0))
    assert min(wild.losses) == wild.losses[wild.best_step]
    assert float(one.loss(wild.weights)) == pytest.approx(min(wild.losses))
    infinite = adapt(net, one, Plan(8, "sgd", rate=1e6))
    assert not math.isfinite(infinite.losses[-1]) or infinite.losses[-1] >= infinite.losses[0]
    assert infinite.best_step == 0
    assert all(bool(w.isfinite().all()) for w in infinite.weights.values())


def test_one_image_does_not_depend_on_others() -> None:
    net = network()
    alone = adapt(net, pair(1), Plan(4)).weights
    adapt(net, pair(2), Plan(4))
    after = adapt(net, pair(1), Plan(4)).weights
    assert all(torch.equal(alone[name], after[name]) for name in alone)


def test_time_is_a_limit() -> None:
    found = adapt(network(), pair(), Plan(10_000, seconds=0.05))
    assert 1 <= len(found.losses) < 10_000


def test_scratch_learns_the_pair_and_stops() -> None:
    net = network(8, 3)
    net.draw(0, 0.1)
    found = train_from_scratch(net, pair(), 40, math.inf, stream(0, 2))
    assert max(found.losses[-10:]) < min(found.losses[:10])
    again = train_from_scratch(net, pair(), 40, math.inf, stream(0, 2))
    assert found.losses == again.losses
    assert len(train_from_scratch(net, pair(), 10_000, 0.05, stream(0, 2)).losses) < 10_000


def test_flat_losses_are_recognised() -> None:
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert _is_flat(noise)
    assert not _is_flat([5 - 0.05 * i + 0.1 * n for i, n in enumerate(noise)])
