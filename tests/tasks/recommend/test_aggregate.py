from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from mlkit.tasks.recommend import aggregate
from mlkit.tasks.recommend.aggregate import Labels, candidates, greedy, recommend_lists


def naive_greedy(f: list[float], g: list[list[float]], count: int, dial: float) -> list[int]:
    """Algorithm 2 with sets: argmax of f + dial * sum of g over the chosen, ties to higher f."""
    chosen: list[int] = []
    left = [i for i in range(len(f)) if f[i] != -torch.inf]
    while left and len(chosen) < count:
        best = max(left, key=lambda i: (f[i] + dial * sum(g[i][s] for s in chosen), f[i], -i))
        chosen.append(best)
        left.remove(best)
    return chosen


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Scores with ties, falling along the row, and categories of 40 candidates for 6 users."""
    random.seed(seed)
    f = [sorted((random.randint(0, 12) / 4 for _ in range(40)), reverse=True) for _ in range(6)]
    return torch.tensor(f), torch.tensor([[random.randint(0, 5) for _ in range(40)] for _ in f])


@pytest.mark.parametrize("dial", [0.0, 0.25, 1.0, 100.0])
def test_the_fast_greedy_choice_equals_the_naive_one(dial: float) -> None:
    for seed in range(10):
        f, categories = problem(seed)
        f[2, 30:] = -torch.inf
        same = (categories[:, :, None] == categories[:, None, :]).float()
        found = greedy(f, same, 12, dial)
        for row in range(6):
            g = (1 - same[row]).tolist()
            assert found[row].tolist() == naive_greedy(f[row].tolist(), g, 12, dial)


def test_overlaps_of_label_sets_count_by_jaccard() -> None:
    torch.manual_seed(0)
    sets = torch.rand(50, 7) < 0.3
    sets[4] = False
    labels = Labels(sets)
    items = torch.stack([torch.randperm(50)[:20] for _ in range(4)])
    items[0, 0] = 4
    f = torch.randn(4, 20).sort(1, descending=True).values
    similarity = labels.similarity(items)
    for row in range(4):
        g = [[1.0] * 20 for _ in range(20)]
        for a in range(20):
            for b in range(20):
                one, two = (set(sets[items[row, i]].nonzero()[:, 0].tolist()) for i in (a, b))
                if one | two:
                    g[a][b] = 1 - len(one & two) / len(one | two)
        torch.testing.assert_close(1 - similarity[row], torch.tensor(g))
        wanted = naive_greedy(f[row].tolist(), g, 8, 0.7)
        assert greedy(f[row : row + 1], similarity[row : row + 1], 8, 0.7)[0].tolist() == wanted


def test_a_large_dial_takes_every_category_before_any_twice() -> None:
    f, categories = problem(3)
    same = (categories[:, :, None] == categories[:, None, :]).float()
    chosen = categories.gather(1, greedy(f, same, 20, 1e6))
    for row in range(6):
        there = categories[row].unique()
        first = chosen[row, : min(20, len(there))]
        assert len(first.unique()) == len(first)
        stock = torch.bincount(categories[row], minlength=6)
        for size in range(1, 21):
            counts = torch.bincount(chosen[row, :size], minlength=6)
            open_ones = counts[counts < stock]
            assert not len(open_ones) or int(counts.max()) - int(open_ones.min()) <= 1


def interests_and_table(parts: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(parts)
    return torch.randn(5, parts, 8), torch.randn(300, 8)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_without_the_dial_the_best_by_the_largest_product_win(parts: int) -> None:
    interests, table = interests_and_table(parts)
    f = torch.stack([(v @ table.T).max(0).values for v in interests])
    f[:, 0] = -torch.inf
    wanted = f.topk(20)
    found = recommend_lists(interests, table, 20)
    assert torch.equal(found.items, wanted.indices)
    torch.testing.assert_close(found.scores, wanted.values)
    for user in range(5):
        products = interests[user] @ table[found.items[user]].T
        assert torch.equal(found.interests[user], products.argmax(0))
    # The union of the interests' own lists, merged with the dial at rest, is the same list.
    labels = Labels(torch.arange(300) % 7)
    merged = candidates(interests, table, 20).merge(20, 0.0, labels)
    assert torch.equal(merged.items, found.items)


def test_candidates_are_a_union_without_repeats_or_excluded_items() -> None:
    interests, table = interests_and_table(4)
    exclude = torch.tensor([0, 0, 3]), recommend_lists(interests, table, 1).items[[0, 1, 3], 0]
    found = candidates(interests, table, 20, exclude)
    for user in range(5):
        banned = {0} | {i for u, i in zip(*(e.tolist() for e in exclude), strict=True) if u == user}
        union: set[int] = set()
        for v in interests[user]:
            scores = v @ table.T
            scores[list(banned)] = -torch.inf
            union |= set(scores.topk(20).indices.tolist())
        listed = [i for i in found.items[user].tolist() if i >= 0]
        assert set(listed) == union
        assert len(listed) == len(union)
        assert bool((found.scores[user].diff() <= 0)[: len(union) - 1].all())


def test_too_few_candidates_give_a_short_list() -> None:
    interests, table = torch.randn(2, 2, 4), torch.randn(6, 4)
    exclude = torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2, 3])
    labels = Labels(torch.arange(6))
    for dial in (0.0, 0.5):
        found = recommend_lists(interests, table, 5, dial=dial, labels=labels, exclude=exclude)
        assert sorted(found.items[0, :2].tolist()) == [4, 5]
        assert found.items[0, 2:].tolist() == [-1, -1, -1]
        assert sorted(found.items[1].tolist()) == [1, 2, 3, 4, 5]


def test_diversity_counts_pairs() -> None:
    labels = Labels(torch.tensor([0, 1, 1, 2, 3]))
    lists = torch.tensor([[1, 2, 3, 4], [1, 2, -1, -1], [3, -1, -1, -1]])
    assert labels.diversity(lists).tolist() == pytest.approx([5 / 6, 0.0, 0.0])
    sets = torch.tensor([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    assert float(Labels(sets).diversity(torch.tensor([[1, 2, 3]]))) == pytest.approx(2.5 / 3)


def test_few_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    interests, table = interests_and_table(4)
    labels = Labels(torch.arange(300) % 7)
    whole = recommend_lists(interests, table, 20, dial=0.5, labels=labels)
    diversity = labels.diversity(whole.items)
    monkeypatch.setattr(aggregate, "PAIRS", 1)
    parts = recommend_lists(interests, table, 20, dial=0.5, labels=labels)
    assert torch.equal(whole.items, parts.items)
    assert torch.equal(diversity, labels.diversity(parts.items))


def test_the_dial_raises_diversity_and_costs_score() -> None:
    torch.manual_seed(0)
    interests, table = torch.randn(50, 4, 8), torch.randn(500, 8)
    labels = Labels(torch.arange(500) % 5)
    found = [recommend_lists(interests, table, 20, dial=d, labels=labels) for d in (0, 0.5, 5)]
    diversity = [float(labels.diversity(lists.items).mean()) for lists in found]
    scores = [float(lists.scores.sum()) for lists in found]
    assert diversity == sorted(diversity)
    assert scores == sorted(scores, reverse=True)
