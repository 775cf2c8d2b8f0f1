from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.recommend.config import LossOptions, ModelOptions
from mlkit.tasks.recommend.data import from_lists
from mlkit.tasks.recommend.losses import (
    NextItem,
    choose_interest,
    interest_logits,
    mean_cosine,
    sampled_softmax,
    soft_interest,
)
from mlkit.tasks.recommend.model import Recommender
from mlkit.tasks.recommend.sampling import Histories

ZEROS = torch.zeros


def loss(v: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, **more: Any) -> Tensor:
    return sampled_softmax(
        (v * table[targets]).sum(1),
        v @ table[negatives].T,
        targets,
        negatives,
        more.get("q_target", ZEROS(len(targets))),
        more.get("q_negative", ZEROS(len(negatives))),
        more.get("hardness", 0.0),
    )


def test_all_other_items_and_a_constant_count_are_full_cross_entropy() -> None:
    v, table, targets = torch.randn(6, 5), torch.randn(30, 5), torch.arange(6) + 3
    every = torch.arange(30)
    found = loss(
        v,
        table,
        targets,
        every,
        q_target=torch.full((6,), -2.0),
        q_negative=torch.full((30,), -2.0),
    )
    assert float(found) == pytest.approx(float(F.cross_entropy(v @ table.T, targets)), abs=1e-6)


def test_fixed_samples_give_the_formula_and_hits_count_nothing() -> None:
    v, table = torch.randn(2, 5), torch.randn(30, 5)
    targets, negatives = torch.tensor([7, 8]), torch.tensor([1, 7, 9])
    q_target, q_negative = torch.tensor([-1.0, -2.0]), torch.tensor([-0.5, -1.0, -3.0])
    found = loss(v, table, targets, negatives, q_target=q_target, q_negative=q_negative)
    wanted = 0.0
    for row in range(2):
        own = float(v[row] @ table[targets[row]]) - float(q_target[row])
        total = math.exp(own)
        for s, q in zip(negatives.tolist(), q_negative.tolist(), strict=True):
            if s != int(targets[row]):
                total += math.exp(float(v[row] @ table[s]) - q)
        wanted += (math.log(total) - own) / 2
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    alone = loss(v[:1], table, targets[:1], targets[:1])
    assert float(alone) == pytest.approx(0, abs=1e-6)


def test_hardness_is_an_importance_weight_with_mean_one() -> None:
    v, table = torch.randn(1, 5), torch.randn(30, 5)
    targets, negatives = torch.tensor([7]), torch.tensor([1, 2, 9])
    o = (v @ table[negatives].T)[0]
    weight = 3 * (0.5 * o).softmax(0)
    own = float(v[0] @ table[7])
    wanted = math.log(math.exp(own) + float((weight * o.exp()).sum())) - own
    assert float(loss(v, table, targets, negatives, hardness=0.5)) == pytest.approx(
        wanted, rel=1e-5
    )


def test_the_loss_of_an_untrained_model_is_that_of_guessing() -> None:
    torch.manual_seed(0)
    model = Recommender(2000, ModelOptions())
    sequences = from_lists([list(range(1 + u, 30 + u)) for u in range(64)])
    source = Histories(sequences, 2001, 20, 10, "uniform")
    batch = source.fetch(torch.arange(64), torch.Generator().manual_seed(0))
    found = NextItem(model, LossOptions(loss="uniform"))(batch)["loss"].detach()
    assert float(found) == pytest.approx(math.log(len(batch.negatives) + 1), rel=0.02)


def test_readouts() -> None:
    v, y = torch.randn(3, 4, 5), torch.randn(3, 5)
    scores = torch.einsum("bkd,bd->bk", v, y)
    hard = choose_interest(v, y)[:, 0]
    assert torch.equal(hard, torch.stack([v[b, int(scores[b].argmax())] for b in range(3)]))
    torch.testing.assert_close(soft_interest(v, y, 0.0)[:, 0], v.mean(1))
    torch.testing.assert_close(soft_interest(v, y, 1e4)[:, 0], hard)
    items = torch.randn(9, 5)
    wanted = torch.stack([(v[b] @ items.T).max(0).values for b in range(3)])
    torch.testing.assert_close(interest_logits(v, items), wanted)


def test_no_gradient_through_the_choice() -> None:
    v, y = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 5)
    choose_interest(v, y).sum().backward()
    assert v.grad is not None
    assert v.grad.sum(2).count_nonzero().item() == 3  # one interest of each row


def test_mean_cosine_over_pairs() -> None:
    v = torch.randn(2, 3, 5)
    for power in (1, 2):
        pairs = [(0, 1), (0, 2), (1, 2)]
        wanted = [
            sum(float(F.cosine_similarity(row[i], row[j], 0)) ** power for i, j in pairs) / 3
            for row in v
        ]
        assert mean_cosine(v, power).tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["sampled", "uniform", "full"])
@pytest.mark.parametrize("readout", ["hard", "soft", "max"])
def test_every_objective_learns_a_chain(kind: Any, readout: Any) -> None:
    """Items follow one another in a ring: the next one is certain."""
    torch.manual_seed(0)
    rows = [[(s + i) % 20 + 1 for i in range(8)] for s in range(20)]
    source = Histories(from_lists(rows), 21, 1, 10, kind)
    options = ModelOptions(dim=16, max_history=1, interests=2)
    objective = NextItem(
        Recommender(20, options), LossOptions(loss=kind, readout=readout, collapse_weight=0.01)
    )
    optimizer = torch.optim.Adam(objective.parameters(), 0.03)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(150):
        found = objective(source.fetch(torch.arange(20), generator))["loss"]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
