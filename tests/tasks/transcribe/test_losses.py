from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.transcribe.lattice import NEG, Labels, occupancy, sum_of_others
from mlkit.tasks.transcribe.losses import (
    contrastive_loss,
    ctc_loss,
    generalized_ctc_loss,
    star_ctc_loss,
    token_contrastive_loss,
)


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def labels(
    tokens: list[list[int]],
    frames: list[int],
    flags: list[list[int]] | None = None,
    weights: Tensor | None = None,
) -> Labels:
    width = max(map(len, tokens))
    rows = torch.tensor([row + [0] * (width - len(row)) for row in tokens]).view(len(tokens), width)
    lengths = torch.tensor([len(row) for row in tokens])
    flagged = torch.zeros_like(rows, dtype=torch.bool)
    for i, row in enumerate(flags or []):
        flagged[i, : len(row)] = torch.tensor(row, dtype=torch.bool)
    return Labels(rows, flagged, torch.tensor(frames), lengths, weights)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token)


def strings(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every string, by adding up all V^T paths of one utterance (T, V)."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = math.exp(sum(float(log_probs[t, v]) for t, v in enumerate(path)))
        found[collapse(path)] = found.get(collapse(path), 0.0) + p
    return found


RAGGED = labels([[1, 2, 2, 3], [], [4], [1, 1, 1]], [9, 5, 1, 6])


def test_without_flags_it_is_the_plain_loss_in_value_and_gradient() -> None:
    """Property 1, through the lattice itself and through the router."""
    x = logits(9, 4, 5).requires_grad_()
    target = F.ctc_loss(
        x.log_softmax(2), RAGGED.tokens, RAGGED.frames, RAGGED.lengths, reduction="none"
    )
    (expected,) = torch.autograd.grad(target.sum(), x)
    total = occupancy(x.detach().log_softmax(2), RAGGED)
    torch.testing.assert_close(-total.total, target.detach(), rtol=0, atol=1e-10)
    ours = x.detach().softmax(2) - total.gamma
    live = torch.arange(9)[:, None, None] < RAGGED.frames[:, None]
    torch.testing.assert_close(ours * live, expected, rtol=0, atol=1e-10)
    routed = generalized_ctc_loss(x.log_softmax(2), RAGGED)
    (gradient,) = torch.autograd.grad(routed.sum(), x)
    torch.testing.assert_close(routed.detach(), target.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tokens", [[1, 2, 1], [1, 1, 2], [2, 2, 2]])
def test_brute_force_over_all_paths(tokens: list[int]) -> None:
    """Property 2: six frames, four tokens, every flag pattern."""
    lp = logits(6, 1, 4, seed=1).log_softmax(2)
    probabilities = strings(lp[:, 0])
    for flags in itertools.product([0, 1], repeat=3):
        sets = [range(1, 4) if flag else [token] for flag, token in zip(flags, tokens, strict=True)]
        expected = -math.log(sum(probabilities.get(z, 0.0) for z in itertools.product(*sets)))
        loss = generalized_ctc_loss(lp, labels([tokens], [6], [list(flags)]))
        assert float(loss) == pytest.approx(expected, abs=1e-12)


def substituted(lp: Tensor, tokens: list[int], places: list[int]) -> list[float]:
    """The plain losses of all strings in which the tokens at `places` are replaced."""
    losses = []
    for values in itertools.product(range(1, lp.shape[2]), repeat=len(places)):
        changed = list(tokens)
        for place, value in zip(places, values, strict=True):
            changed[place] = value
        chosen = labels([changed], [len(lp)])
        losses.append(
            float(F.ctc_loss(lp, chosen.tokens, chosen.frames, chosen.lengths, reduction="none")[0])
        )
    return losses


@pytest.mark.parametrize("places", [[0], [2], [3], [1, 2], [0, 3]])
def test_flags_are_sums_over_substitutions(places: list[int]) -> None:
    """Property 3, with the plain loss of torch as the judge."""
    tokens = [1, 3, 3, 2]
    lp = logits(12, 1, 5, seed=2).log_softmax(2)
    expected = (
        -torch.tensor(substituted(lp, tokens, places), dtype=torch.float64).neg().logsumexp(0)
    )
    flags = [int(i in places) for i in range(4)]
    loss = generalized_ctc_loss(lp, labels([tokens], [12], [flags]))
    torch.testing.assert_close(loss[0], expected, rtol=0, atol=1e-12)


def test_a_further_flag_never_raises_the_loss() -> None:
    """Property 4, first part."""
    lp = logits(14, 1, 6, seed=3).log_softmax(2)
    tokens, flags, last = [1, 2, 2, 5, 3], [0] * 5, math.inf
    for place in (2, 0, 4, 1, 3):
        loss = float(generalized_ctc_loss(lp, labels([tokens], [14], [flags])))
        assert loss <= last + 1e-12
        flags[place], last = 1, loss


@pytest.mark.parametrize("weight", [0.0, -1.0, -5.0, -20.0, NEG])
def test_weights_mix_the_plain_and_the_generalized_probability(weight: float) -> None:
    """Property 4: P(w) = P_ctc + exp(w) (P(0) - P_ctc)."""
    lp = logits(10, 1, 5, seed=4).log_softmax(2)
    tokens, flags = [[2, 3, 1]], [[0, 1, 0]]
    weights = torch.full((1, 3, 4), weight, dtype=torch.float64)
    weights[0, 1, 2] = 0.0
    plain, free, mixed = (
        float((-generalized_ctc_loss(lp, labels(tokens, [10], *rest))).exp())
        for rest in ((), (flags,), (flags, weights))
    )
    assert mixed == pytest.approx(plain + math.exp(weight) * (free - plain), abs=1e-14)


def test_alternatives_are_interchangeable() -> None:
    """Property 4, last part: tokens that the label does not name may change places."""
    lp = logits(10, 1, 6, seed=5).log_softmax(2)
    chosen = labels([[1, 2, 1]], [10], [[0, 1, 0]])
    swapped = lp[..., [0, 1, 2, 5, 3, 4]]
    torch.testing.assert_close(
        generalized_ctc_loss(lp, chosen), generalized_ctc_loss(swapped, chosen), rtol=0, atol=1e-12
    )


def test_all_flagged_of_every_length_have_probability_one() -> None:
    """Property 5: every path has some length, and no loss is negative."""
    lp = logits(5, 1, 4, seed=6).log_softmax(2)
    losses = [
        generalized_ctc_loss(lp, labels([[1] * size], [5], [[1] * size])) for size in range(6)
    ]
    assert all(float(loss) >= 0 for loss in losses)
    assert sum(math.exp(-float(loss)) for loss in losses) == pytest.approx(1.0, abs=1e-12)


MIXED = labels([[1, 2, 3, 3, 1], [2, 2], [], [3, 1, 1]], [13, 7, 4, 9],
               [[0, 1, 1, 0, 1], [0, 0], [], [1, 0, 1]])  # fmt: skip


def test_occupancy_and_gradient() -> None:
    """Property 6."""
    x = logits(13, 4, 5, seed=7).requires_grad_()
    gamma = occupancy(x.detach().log_softmax(2), MIXED).gamma
    live = (torch.arange(13)[:, None] < MIXED.frames).double()
    torch.testing.assert_close(gamma.sum(2), live, rtol=0, atol=1e-12)
    loss = generalized_ctc_loss(x.log_softmax(2), MIXED)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.sum(2).abs().max() < 1e-12
    assert torch.equal(gradient[live == 0], torch.zeros_like(gradient[live == 0]))
    assert torch.autograd.gradcheck(lambda x: generalized_ctc_loss(x.log_softmax(2), MIXED), x)
    # Also where the columns are no distribution: the gradient is the function's own.
    assert torch.autograd.gradcheck(lambda x: generalized_ctc_loss(x, MIXED), x)


def test_a_batch_is_its_utterances_and_padding_is_nothing() -> None:
    """Property 7."""
    lp = logits(13, 4, 5, seed=8).log_softmax(2)
    together = generalized_ctc_loss(lp, MIXED)
    for i in range(4):
        one = MIXED.take(torch.tensor([i]))
        alone = generalized_ctc_loss(lp[: int(one.frames[0]), i : i + 1], one)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)
    longer = torch.cat((lp, logits(4, 4, 5, seed=9).log_softmax(2)))
    torch.testing.assert_close(generalized_ctc_loss(longer, MIXED), together, rtol=0, atol=1e-12)


def test_the_blank_plateau_in_single_precision() -> None:
    """Property 7: the final state is e^-1670 of the best one, and stays finite."""
    x = torch.zeros(3000, 1, 29)
    x[..., 0] = 12.0
    tokens = (torch.arange(200)[None] % 28) + 1
    flags = torch.zeros(1, 200, dtype=torch.bool)
    plain = Labels(tokens, flags, torch.tensor([3000]), torch.tensor([200]))
    lp = x.log_softmax(2).requires_grad_()
    found = occupancy(lp.detach().double(), plain)
    native = F.ctc_loss(lp.detach().double(), tokens, plain.frames, plain.lengths)
    assert float(-found.total) == pytest.approx(200 * float(native), abs=1e-6)
    assert float(-found.total) > 1600
    flags[0, ::9] = True
    loss = generalized_ctc_loss(lp, Labels(tokens, flags, plain.frames, plain.lengths))
    assert math.isfinite(float(loss.detach()))
    (gradient,) = torch.autograd.grad(loss.sum(), lp)
    assert torch.isfinite(gradient).all()
    assert (gradient.sum(2) + 1).abs().max() < 1e-5


def test_the_star_has_the_gradient_of_what_it_computes() -> None:
    """Property 8: the raw native gradient is off by that of sum_t P(not blank)."""
    x = logits(9, 1, 4, seed=10).requires_grad_()
    chosen = labels([[1, 3, 2]], [9], [[0, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: star_ctc_loss(x.log_softmax(2), chosen), x)
    (repaired,) = torch.autograd.grad(star_ctc_loss(x.log_softmax(2), chosen).sum(), x)
    lp = x.log_softmax(2)
    star = lp[..., 1:].logsumexp(2, keepdim=True)
    raw_loss = F.ctc_loss(
        torch.cat((lp, star, star), 2), torch.tensor([[1, 5, 4]]), chosen.frames, chosen.lengths,
        reduction="sum",
    )  # fmt: skip
    (raw,) = torch.autograd.grad(raw_loss, x, retain_graph=True)
    speech = 2 * (1 - x.softmax(2)[..., 0]).sum() + 0 * raw_loss  # two star columns
    (trap,) = torch.autograd.grad(speech, x)
    assert trap.abs().max() > 1e-2
    torch.testing.assert_close(raw - trap, repaired, rtol=0, atol=1e-8)


def test_the_star_swallows_runs_and_the_exact_loss_does_not() -> None:
    """Seven frames that all say 3, for the label [*, 3]."""
    x = torch.zeros(7, 1, 4, dtype=torch.float64)
    x[..., 3] = 8.0
    chosen = labels([[1, 3]], [7], [[1, 0]])
    assert float(star_ctc_loss(x.log_softmax(2), chosen)) < 0
    assert float(generalized_ctc_loss(x.log_softmax(2), chosen)) > 5


def test_too_many_tokens_for_the_frames_is_infinite_with_gradient_zero() -> None:
    for flags in ([[1, 0, 0, 0]], [[0, 0, 0, 0]]):
        x = logits(4, 1, 4, seed=11).requires_grad_()
        loss = generalized_ctc_loss(x.log_softmax(2), labels([[1, 2, 2, 2]], [4], flags))
        assert float(loss.detach()) == math.inf
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert not gradient.any()


def test_contrastive_loss_in_both_forms() -> None:
    """Property 10."""
    right = torch.tensor([2.0, 3.0], dtype=torch.float64)
    absent = torch.full((2, 2), torch.inf, dtype=torch.float64)
    assert not contrastive_loss(right, absent).any()
    wrong = torch.tensor([[2.5, torch.inf], [1.0, torch.inf]], dtype=torch.float64)
    torch.testing.assert_close(contrastive_loss(right, wrong), F.softplus(right - wrong[:, 0]))
    x = logits(12, 1, 5, seed=12).requires_grad_()
    lp = x.log_softmax(2)
    y, h = labels([[1, 2, 3]], [12]), labels([[1, 4, 3]], [12])
    loss = contrastive_loss(ctc_loss(lp, y), ctc_loss(lp, h)[:, None])
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    difference = occupancy(lp.detach(), h).gamma - occupancy(lp.detach(), y).gamma
    share = torch.sigmoid(ctc_loss(lp, y) - ctc_loss(lp, h)).detach()
    torch.testing.assert_close(gradient, share * difference, rtol=0, atol=1e-10)
    tokens = token_contrastive_loss(lp, y)
    plain = float(ctc_loss(lp, y).detach())
    expected = sum(
        plain + float(torch.tensor(substituted(lp.detach(), [1, 2, 3], [u])).neg().logsumexp(0))
        for u in range(3)
    )
    assert float(tokens.detach()) == pytest.approx(expected, abs=1e-6)


def test_sum_of_others_does_not_cancel() -> None:
    values = torch.tensor([[0.0, -800.0, -900.0], [-3.0, -3.0, NEG]], dtype=torch.float64)
    found = sum_of_others(values)
    torch.testing.assert_close(found[0], torch.tensor([-800.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        found[1], torch.tensor([-3.0, -3.0, -3.0 + math.log(2)], dtype=torch.float64)
    )
