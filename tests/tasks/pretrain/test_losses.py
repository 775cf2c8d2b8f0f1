from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor

from mlkit.tasks.pretrain import losses

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def nobody(batch: int, size: int) -> Tensor:
    return torch.zeros(batch, size, dtype=torch.bool)


# --- MoCo ---


def moco_by_hand(query: Tensor, keys: list[Tensor], queue: Tensor, joint: bool) -> float:
    total = 0.0
    for b in range(len(query)):
        q = F.normalize(query[b], dim=0)
        wrong = sum(math.exp(float(q @ F.normalize(n, dim=0)) / 0.1) for n in queue)
        right = [math.exp(float(q @ F.normalize(k[b], dim=0)) / 0.1) for k in keys]
        if joint:
            total -= math.log(sum(right) / (sum(right) + wrong))
        else:
            total -= sum(math.log(p / (p + wrong)) for p in right) / len(right)
    return total / len(query)


@pytest.mark.parametrize("form", ["separate", "joint"])
@pytest.mark.parametrize("count", [1, 3])
def test_moco_is_what_the_sums_say(form: losses.Positives, count: int) -> None:
    query, queue = random(5, 8), random(7, 8, seed=1)
    keys = [random(5, 8, seed=2 + i) for i in range(count)]
    found = losses.moco(query, keys, queue, nobody(5, 7), positives=form)
    assert float(found) == pytest.approx(moco_by_hand(query, keys, queue, form == "joint"))


def test_both_forms_of_moco_agree_with_one_positive() -> None:
    query, key, queue = random(5, 8), [random(5, 8, seed=1)], random(7, 8, seed=2)
    separate = losses.moco(query, key, queue, nobody(5, 7), positives="separate")
    joint = losses.moco(query, key, queue, nobody(5, 7), positives="joint")
    torch.testing.assert_close(separate, joint)


def test_moco_with_an_empty_queue_is_zero_and_has_a_gradient() -> None:
    query = random(5, 8).requires_grad_()
    for queue, same in (
        (random(0, 8), nobody(5, 0)),
        (random(7, 8), torch.ones(5, 7, dtype=torch.bool)),
    ):
        loss = losses.moco(query, [random(5, 8, seed=1)], queue, same)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, query)
        assert bool((gradient == 0).all())


def test_moco_with_a_queue_of_zeros() -> None:
    query, key, size = random(5, 8), random(5, 8, seed=1), 11
    found = losses.moco(query, [key], torch.zeros(size, 8, dtype=DOUBLE), nobody(5, size))
    cosine = F.cosine_similarity(query, key)
    torch.testing.assert_close(found, (1 + size * torch.exp(-cosine / 0.1)).log().mean())


def test_moco_leaves_out_exactly_what_is_masked() -> None:
    query, key, queue = random(3, 8), [random(3, 8, seed=1)], random(6, 8, seed=2)
    same = nobody(3, 6)
    same[:, 2] = True
    kept = torch.cat((queue[:2], queue[3:]))
    torch.testing.assert_close(
        losses.moco(query, key, queue, same), losses.moco(query, key, kept, nobody(3, 5))
    )


# --- BYOL ---


def test_byol_is_the_squared_distance() -> None:
    prediction, targets = random(6, 5), [random(6, 5, seed=1), random(6, 5, seed=2)]
    loss = losses.byol(prediction, targets)
    squares = [losses.alignment(prediction, target) for target in targets]
    torch.testing.assert_close(2 + loss, torch.stack(squares).mean())
    assert -2 <= float(loss) <= 2
    assert float(losses.byol(prediction, [prediction])) == pytest.approx(-2)
    assert float(losses.byol(prediction, [-prediction])) == pytest.approx(2)


# --- SimCLR ---


def nt_xent_by_hand(first: Tensor, second: Tensor) -> float:
    every = F.normalize(torch.cat((first, second)), dim=1)
    count, total = len(first), 0.0
    for i in range(2 * count):
        powers = [math.exp(float(every[i] @ every[k]) / 0.1) for k in range(2 * count)]
        total -= math.log(powers[(i + count) % (2 * count)] / (sum(powers) - powers[i]))
    return total / (2 * count)


def test_nt_xent_is_what_the_sums_say() -> None:
    first, second = random(5, 8), random(5, 8, seed=1)
    assert float(losses.nt_xent(first, second)) == pytest.approx(nt_xent_by_hand(first, second))


def test_nt_xent_does_not_contrast_a_video_with_its_twin() -> None:
    """With the twin's rows taken out of the denominators the other rows' losses are as without."""
    first, second = random(3, 8), random(3, 8, seed=1)
    ids = torch.tensor([0, 1, 0])
    own = losses.nt_xent(first[:1], second[:1], every=(first, second, ids), ids=ids[:1])
    alone = losses.nt_xent(
        first[:1], second[:1], every=(first[:2], second[:2], ids[:2]), ids=ids[:1]
    )
    torch.testing.assert_close(own, alone)


# --- SwAV ---


def sinkhorn_by_the_book(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The paper's steps: rows to 1/C, then columns to 1/B, columns scaled to 1 at the end."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / samples
    return (q / q.sum(0, keepdim=True)).T


def test_sinkhorn_is_the_papers() -> None:
    scores = F.normalize(random(12, 6), dim=1) @ F.normalize(random(5, 6, seed=1), dim=1).T
    torch.testing.assert_close(
        losses.sinkhorn(scores), sinkhorn_by_the_book(scores, 0.05, 3), rtol=1e-9, atol=1e-12
    )


def test_sinkhorn_spreads_evenly() -> None:
    scores = F.normalize(random(12, 6), dim=1) @ F.normalize(random(5, 6, seed=1), dim=1).T
    codes = losses.sinkhorn(scores, 0.2, 100)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=DOUBLE))
    assert float((codes.sum(0) - 12 / 5).abs().max()) < 1e-3
    even = losses.sinkhorn(torch.zeros(12, 5, dtype=DOUBLE))
    torch.testing.assert_close(even, torch.full((12, 5), 1 / 5, dtype=DOUBLE))


def test_sinkhorn_is_optimal_transport() -> None:
    """Entropic transport: among plans with its marginals none has a larger <P, S> + eps H(P)."""
    scores, epsilon = random(4, 3), 0.3
    plan = losses.sinkhorn(scores, epsilon, 2000) / 4
    # Optimality: S - eps log P is a sum of a row and a column potential.
    potential = scores - epsilon * plan.log()
    doubly = potential - potential.mean(0, keepdim=True) - potential.mean(1, keepdim=True)
    assert float((doubly + potential.mean()).abs().max()) < 1e-8
    # As the entropy's weight falls, the plan becomes that of the linear programme.
    rows = [np.kron(np.eye(4)[i], np.ones(3)) for i in range(4)]
    columns = [np.kron(np.ones(4), np.eye(3)[j]) for j in range(3)]
    exact = linprog(
        -scores.numpy().ravel(), A_eq=np.array(rows + columns), b_eq=[1 / 4] * 4 + [1 / 3] * 3
    )
    hard = losses.sinkhorn(scores, 0.002, 20000) / 4
    assert float((hard * scores).sum()) == pytest.approx(-exact.fun, abs=1e-4)


def test_sinkhorn_does_not_overflow() -> None:
    codes = losses.sinkhorn(100 * random(8, 5), 0.01)
    assert bool(torch.isfinite(codes).all())


def test_swav_is_the_cross_entropy_of_codes_elsewhere() -> None:
    scores = [random(6, 5, seed=i) for i in range(3)]
    codes = [random(6, 5, seed=10 + i).softmax(1) for i in range(2)]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    wanted = [F.cross_entropy(scores[j] / 0.1, codes[i]) for i, j in pairs]
    torch.testing.assert_close(losses.swav(scores, codes), torch.stack(wanted).mean())


# --- what holds for all ---

WHOLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "moco": lambda a, b: losses.moco(a, [b], random(7, 8, seed=9), nobody(len(a), 7)),
    "byol": lambda a, b: losses.byol(a, [b]),
    "simclr": losses.nt_xent,
    "alignment": losses.alignment,
    "spread": lambda a, b: losses.spread(a),
    "uniformity": lambda a, b: losses.uniformity(a),
}


@pytest.mark.parametrize("name", WHOLE)
def test_neither_order_nor_scale_of_embeddings_matter(name: str) -> None:
    a, b = random(6, 8), random(6, 8, seed=1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    loss = WHOLE[name]
    scaled = a * torch.rand(6, 1, dtype=DOUBLE).add(0.1), 3 * b
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(loss(a, b), loss(a[order], b[order]), **tolerance)
    torch.testing.assert_close(loss(a, b), loss(*scaled), **tolerance)


def test_spread_tells_a_collapse() -> None:
    full = losses.spread(random(4000, 16))
    assert float(full) == pytest.approx(1 / 4, rel=0.02)
    assert float(losses.spread(torch.ones(10, 16))) == pytest.approx(0, abs=1e-6)
    assert float(losses.uniformity(torch.ones(10, 16))) == pytest.approx(0, abs=1e-5)
    assert float(losses.uniformity(random(500, 16))) < -3


def test_losses_agree_with_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    a, b = random(6, 8), random(6, 8, seed=1)
    theirs = lightly.NTXentLoss(temperature=0.1)(a, b)
    torch.testing.assert_close(losses.nt_xent(a, b), theirs, check_dtype=False)
    scores = [random(8, 5, seed=i) / 3 for i in range(2)]
    swav = lightly.SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    codes = [losses.sinkhorn(score) for score in scores]
    theirs = swav([score.clone() for score in scores], [])
    torch.testing.assert_close(losses.swav(scores, codes), theirs.squeeze(), check_dtype=False)
    byol = lightly.NegativeCosineSimilarity()(a, b)
    torch.testing.assert_close(losses.byol(a, [b]), 2 * byol, check_dtype=False)
