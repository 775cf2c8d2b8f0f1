from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mlkit.tasks.labelnoise.losses import mix, ramp_up, refine, semi_loss, sharpen


def distributions(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).softmax(1)


def test_sharpening_at_its_ends() -> None:
    probs = distributions(50, 6)
    assert torch.allclose(sharpen(probs, 1.0), probs, atol=1e-6)
    one_hot = F.one_hot(probs.argmax(1), 6).float()
    assert torch.allclose(sharpen(probs, 1e-3), one_hot, atol=1e-4)
    direct = probs**2 / (probs**2).sum(1, keepdim=True)
    assert torch.allclose(sharpen(probs, 0.5), direct, atol=1e-6)


def test_targets_are_distributions_after_refining_and_mixing() -> None:
    probs, labels = distributions(20, 4), torch.arange(20) % 4
    targets = refine(probs, labels, torch.linspace(0, 1, 20), 0.5)
    assert torch.allclose(targets[-1], F.one_hot(labels[-1], 4).float(), atol=1e-6)
    inputs, mixed = mix(torch.rand(20, 3, 2, 2), targets, torch.randperm(20), 0.7)
    assert torch.allclose(mixed.sum(1), torch.ones(20), atol=1e-5)
    assert inputs.shape == (20, 3, 2, 2)


def test_with_hard_labels_and_nothing_else_it_is_cross_entropy() -> None:
    logits, labels = torch.randn(30, 5), torch.arange(30) % 5
    targets = refine(logits.softmax(1), labels, torch.ones(30), 1.0)
    _, targets = mix(logits, targets, torch.randperm(30), 1.0)
    loss = semi_loss(logits, targets, 30, torch.full((5,), 0.2))
    assert loss.labelled == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert loss.guessed == 0
    assert float(loss.total(0.0)) == pytest.approx(float(loss.labelled + loss.penalty))


def test_parts_of_the_loss_by_their_definitions() -> None:
    logits, targets = torch.randn(12, 3), distributions(12, 3, 1)
    prior = torch.tensor([0.5, 0.3, 0.2])
    loss = semi_loss(logits, targets, 8, prior)
    probs = logits.softmax(1)
    square = sum(((probs[i] - targets[i]) ** 2).sum() for i in range(8, 12)) / 12
    assert float(loss.guessed) == pytest.approx(float(square), rel=1e-5)
    divergence = F.kl_div(probs.mean(0).log(), prior, reduction="sum")
    assert float(loss.penalty) == pytest.approx(float(divergence), rel=1e-4)
    equal = semi_loss(prior.log().repeat(4, 1), targets[:4], 4, prior)
    assert float(equal.penalty) == pytest.approx(0, abs=1e-6)


def test_the_ramp_of_the_authors() -> None:
    weights = [25 * ramp_up(epoch, 10, 16) for epoch in (0, 10, 14, 18, 26, 90)]
    assert weights == [0, 0, 6.25, 12.5, 25, 25]
