from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from mlkit.tasks.transcribe.acceptor import acceptor_loss, doubtful_loss
from mlkit.tasks.transcribe.losses import generalized_ctc_loss

from .test_losses import MIXED, labels, logits, strings

FRAMES = 5


def readings(
    tokens: list[int], flags: list[int], skip: float | None, extra: float | None, most: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every way through the acceptor with at most `most` tokens, and its log weight."""

    def walk(
        node: int, read: tuple[int, ...], weight: float
    ) -> Iterator[tuple[tuple[int, ...], float]]:
        if node == len(tokens):
            yield read, weight
        beside = (node > 0 and flags[node - 1]) or (node < len(tokens) and flags[node])
        if len(read) < most and extra is not None and beside:
            for v in (1, 2, 3):
                yield from walk(node, (*read, v), weight + extra)
        if node == len(tokens):
            return
        if skip is not None and flags[node]:
            yield from walk(node + 1, read, weight + skip)
        if len(read) < most:
            for v in (1, 2, 3) if flags[node] else (tokens[node],):
                yield from walk(node + 1, (*read, v), weight)

    return walk(0, (), 0.0)


@pytest.mark.parametrize("skip", [None, -0.5])
@pytest.mark.parametrize("extra", [None, -1.5])
def test_brute_force_over_all_readings(skip: float | None, extra: float | None) -> None:
    lp = logits(FRAMES, 1, 4, seed=1).log_softmax(2)
    probabilities = strings(lp[:, 0])
    for tokens in ([1, 2, 1], [1, 1, 2]):
        for flags in itertools.product([0, 1], repeat=3):
            expected = sum(
                math.exp(weight) * probabilities.get(read, 0.0)
                for read, weight in readings(tokens, list(flags), skip, extra, FRAMES)
            )
            loss = acceptor_loss(lp, labels([tokens], [FRAMES], [list(flags)]), skip, extra)
            assert float(loss) == pytest.approx(-math.log(expected), abs=1e-12)


def test_without_options_it_is_the_generalized_loss_and_its_gradient() -> None:
    """Autograd through the dense form judges the gradient written by hand."""
    x = logits(13, 4, 5, seed=2).requires_grad_()
    losses, gradients = [], []
    for function in (acceptor_loss, generalized_ctc_loss):
        loss = function(x.log_softmax(2), MIXED)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss.sum(), x)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_options_touch_flagged_utterances_alone() -> None:
    lp = logits(13, 4, 5, seed=3).log_softmax(2)
    free = doubtful_loss(lp, MIXED, -1.0, None)
    plain = generalized_ctc_loss(lp, MIXED)
    flagged = MIXED.flags.any(1)
    assert torch.equal(free[~flagged], plain[~flagged])
    assert (free[flagged] < plain[flagged]).all()
    assert torch.equal(doubtful_loss(lp, MIXED, None, None), plain)


def test_gradients_of_the_options_are_finite_where_nothing_is_possible() -> None:
    x = logits(2, 1, 4, seed=4).requires_grad_()
    loss = acceptor_loss(x.log_softmax(2), labels([[1, 2, 3]], [2], [[0, 0, 0]]), -1.0, -1.0)
    assert float(loss.detach()) == math.inf
    short = acceptor_loss(x.log_softmax(2), labels([[1, 2, 3]], [2], [[0, 1, 0]]), -1.0, -1.0)
    (gradient,) = torch.autograd.grad(short.sum(), x)
    assert torch.isfinite(gradient).all()
