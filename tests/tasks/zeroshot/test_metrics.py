from __future__ import annotations

import numpy as np
import pytest
import torch

from mlkit.tasks.zeroshot.ensemble import (
    EQUAL,
    PARTS,
    choose_penalty,
    choose_weights,
    grid,
    mix,
    standardise,
)
from mlkit.tasks.zeroshot.metrics import hierarchical_precision, hits, ranks, tree_distances

from .helpers import graph


def test_ranks_count_ties_against_the_truth() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 1.0, 1.0], [5.0, 5.0, 1.0]])
    assert ranks(scores, torch.tensor([1, 0, 0])).tolist() == [1, 3, 2]


def test_hits_grow_with_k_and_end_at_one() -> None:
    torch.manual_seed(0)
    scores, truth = torch.randn(50, 8), torch.randint(8, (50,))
    found = hits(ranks(scores, truth), truth, tuple(range(1, 9)))
    values = [found[f"hit@{k}"] for k in range(1, 9)]
    assert values == sorted(values)
    assert values[-1] == found["class@8"] == 1
    slow = sum(int(t in s.topk(3).indices) for s, t in zip(scores, truth, strict=True)) / 50
    assert found["hit@3"] == pytest.approx(slow)
    constant = hits(ranks(torch.zeros(5, 4), torch.arange(5) % 4), torch.arange(5) % 4, (1, 3, 4))
    assert [constant[f"hit@{k}"] for k in (1, 3, 4)] == [0, 0, 1]


def test_the_mean_over_classes() -> None:
    rank, classes = torch.tensor([1, 1, 1, 2]), torch.tensor([0, 0, 0, 2])
    found = hits(rank, classes, (1,))
    assert found == {"hit@1": 0.75, "class@1": 0.5}


def test_tree_distances_go_through_the_best_common_ancestor() -> None:
    pairs = graph().pairs
    far = np.iinfo(np.int64).max
    found = tree_distances(pairs, 5, np.array([5, 6, 3, 4, 0, 8]))
    assert found.tolist() == [0, 2, 1, 3, 3, far]


def test_hierarchical_precision() -> None:
    pairs, candidates = graph().pairs, np.array([5, 6, 4, 8, 9])
    # The two nearest to 5 are itself and its sibling 6.
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0], [0.0, -1.0, -2.0, 3.0, 2.0]])
    found = hierarchical_precision(scores, torch.tensor([0, 0]), pairs, candidates, (1, 2, 5))
    assert found == {"hp@1": 0.5, "hp@2": 0.5, "hp@5": 1.0}


def test_standardised_scores_and_mixtures() -> None:
    torch.manual_seed(0)
    scores = {part: torch.randn(6, 9) * 10**i for i, part in enumerate(PARTS)}
    found = standardise(scores["conse"])
    torch.testing.assert_close(found.mean(1), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(6))
    assert standardise(torch.ones(2, 3)).abs().max() == 0
    for part in PARTS:
        alone = {name: float(name == part) for name in PARTS}
        torch.testing.assert_close(mix(scores, alone), standardise(scores[part]))
    assert all(sum(w.values()) == pytest.approx(1) for w in grid())
    assert len(list(grid())) == 66
    assert sum(EQUAL.values()) == pytest.approx(1)


def test_the_chosen_weights_follow_the_part_that_knows() -> None:
    torch.manual_seed(0)
    truth = torch.randint(20, (200,))
    right = torch.nn.functional.one_hot(truth, 20) * 4.0
    scores = {p: torch.randn(200, 20) + (right if p == "conse" else 0) for p in PARTS}
    weights = choose_weights(scores, truth)
    assert weights["conse"] > 0.5
    assert sum(weights.values()) == pytest.approx(1)
    best = float((ranks(mix(scores, weights), truth) == 1).double().mean())
    assert best >= float((ranks(scores["conse"], truth) == 1).double().mean()) - 0.05


def test_the_penalty_balances_seen_and_unseen() -> None:
    torch.manual_seed(0)
    seen = torch.arange(10) < 5
    truth = torch.arange(200) % 10
    scores = torch.randn(200, 10) + 3.0 * torch.nn.functional.one_hot(truth, 10) + 2.5 * seen
    penalty = choose_penalty(scores, truth, seen)
    assert 1.5 < penalty < 3.5
    assert choose_penalty(scores[:5], truth[:5], seen) == 0  # photos of one kind decide nothing
