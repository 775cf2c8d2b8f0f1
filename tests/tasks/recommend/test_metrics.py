from __future__ import annotations

import math
import random

import pytest
import torch

from mlkit.tasks.recommend.data import from_lists
from mlkit.tasks.recommend.metrics import hit_rate, hits, ndcg, recall

A, B, C, D, X = 1, 2, 3, 4, 9


def test_the_example_of_the_specification() -> None:
    lists, targets = torch.tensor([[A, B, C, D]]), from_lists([[B, X]])
    found = hits(lists, targets)
    assert recall(found, targets, "sets").tolist() == [0.5]
    assert hit_rate(found).tolist() == [1.0]
    dcg = 1 / math.log2(3)
    ideal = 1 + 1 / math.log2(3)
    assert ndcg(lists, targets, "ideal").tolist() == pytest.approx([dcg / ideal])
    assert ndcg(lists, targets, "ideal").tolist() == pytest.approx([0.3869], abs=1e-4)
    assert ndcg(lists, targets, "hits").tolist() == pytest.approx([0.6309], abs=1e-4)
    assert ndcg(lists, targets, "position").tolist() == pytest.approx([1.0])


def test_repeated_targets_by_set_and_by_list() -> None:
    lists, targets = torch.tensor([[2, 5]]), from_lists([[2, 2]])
    found = hits(lists, targets)
    assert recall(found, targets, "sets").tolist() == [1.0]
    assert recall(found, targets, "list").tolist() == [0.5]
    assert ndcg(lists, targets, "ideal").tolist() == [1.0]
    position = (1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert ndcg(lists, targets, "position").tolist() == pytest.approx([position])


def test_short_lists_and_no_hit() -> None:
    lists, targets = torch.tensor([[3, -1], [7, 8]]), from_lists([[3], [1, 2]])
    found = hits(lists, targets)
    assert found.tolist() == [[True, False], [False, False]]
    for kind in ("ideal", "hits", "position"):
        assert ndcg(lists, targets, kind).tolist() == [1.0, 0.0]


def test_random_lists_equal_loops() -> None:
    random.seed(0)
    lists = [random.sample(range(1, 30), 10) for _ in range(50)]
    aims = [[random.randint(1, 30) for _ in range(random.randint(1, 8))] for _ in range(50)]
    rows, targets = torch.tensor(lists), from_lists(aims)
    found = hits(rows, targets)

    def discount(ranks: list[int]) -> float:
        return sum(1 / math.log2(rank + 2) for rank in ranks)

    for user, (row, aim) in enumerate(zip(lists, aims, strict=True)):
        ranks = [rank for rank, item in enumerate(row) if item in aim]
        places = [place for place, item in enumerate(aim) if item in row]
        assert found[user].nonzero()[:, 0].tolist() == ranks
        assert float(recall(found, targets, "sets")[user]) == len(ranks) / len(set(aim))
        assert float(recall(found, targets, "list")[user]) == len(ranks) / len(aim)
        ideal = discount(list(range(min(10, len(set(aim))))))
        made = discount(list(range(len(ranks)))) or 1
        placed = discount(list(range(len(places)))) or 1
        wanted = {
            "ideal": discount(ranks) / ideal,
            "hits": discount(ranks) / made,
            "position": discount(places) / placed,
        }
        for kind, value in wanted.items():
            assert float(ndcg(rows, targets, kind)[user]) == pytest.approx(value)
