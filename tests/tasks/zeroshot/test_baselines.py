from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from mlkit.tasks.zeroshot.baselines import (
    ancestor_rows,
    conse_scores,
    nearest_seen,
    related,
    ridge_rows,
)

from .helpers import COUNT, graph, random_dag


def test_the_mean_below_the_closest_ancestor_by_brute_force() -> None:
    for seed in range(4):
        g = graph(seed, random_dag(30, seed), 30)
        seen = np.arange(0, 30, 3)
        torch.manual_seed(seed)
        targets = F.normalize(torch.randn(len(seen), 4), dim=1)
        found = ancestor_rows(g.pairs, seen, targets, np.arange(30))
        entries = list(zip(g.pairs.below, g.pairs.above, g.pairs.distance, strict=True))
        under = {
            x: [i for i, s in enumerate(seen) if (s, x) in {(a, b) for a, b, _ in entries}]
            for x in range(30)
        }
        for node in range(30):
            useful = [(d, x) for u, x, d in entries if u == node and under[x]]
            least = min((d for d, _ in useful), default=None)
            members = [i for d, x in useful if d == least for i in under[x]]
            wanted = targets[members].sum(0) if members else targets.mean(0)
            torch.testing.assert_close(found[node], F.normalize(wanted, dim=0))


def test_a_seen_leaf_gets_its_own_row() -> None:
    g = graph()
    targets = F.normalize(torch.randn(len(g.seen), 4), dim=1)
    found = ancestor_rows(g.pairs, g.seen, targets, np.array([6, 10]))
    torch.testing.assert_close(found, targets[[3, 5]])


def test_ridge_is_sklearns_and_has_its_limits() -> None:
    torch.manual_seed(0)
    x, t, u = torch.randn(20, 5), torch.randn(20, 4), torch.randn(6, 5)
    theirs = Ridge(alpha=1.0, fit_intercept=False).fit(x.numpy(), t.numpy()).predict(u.numpy())
    wanted = F.normalize(torch.from_numpy(theirs).float(), dim=1)
    torch.testing.assert_close(ridge_rows(x, t, u), wanted, atol=1e-5, rtol=1e-5)
    limit = F.normalize(u @ x.T @ t, dim=1)
    torch.testing.assert_close(ridge_rows(x, t, u, 1e9), limit, atol=1e-5, rtol=1e-5)


def test_conse_with_one_class_is_the_neighbour_of_the_best() -> None:
    torch.manual_seed(0)
    logits, vectors, asked = torch.randn(8, 6), torch.randn(6, 5), torch.randn(7, 5)
    found = conse_scores(logits, vectors, asked, top=1)
    wanted = F.normalize(vectors[logits.argmax(1)], dim=1) @ F.normalize(asked, dim=1).T
    torch.testing.assert_close(found, wanted)
    every = logits.softmax(1) @ vectors
    torch.testing.assert_close(
        conse_scores(logits, vectors, asked, top=99),
        F.normalize(every, dim=1) @ F.normalize(asked, dim=1).T,
    )


def test_nearest_seen_counts_steps_through_common_ancestors() -> None:
    g = graph()
    found = nearest_seen(g.pairs, g.seen, 5, 4)
    assert set(found[:2]) == {(2, 2), (6, 2)}
    assert [steps for _, steps in found] == sorted(steps for _, steps in found)
    assert nearest_seen(g.pairs, np.array([8]), 5, 4) == []
    assert nearest_seen(g.pairs, np.arange(COUNT), 10, 4) == [(10, 0)]


def test_related_are_those_that_have_a_nearest_seen_class() -> None:
    for seed in range(4):
        g = graph(seed, random_dag(30, seed), 30)
        seen = np.arange(0, 30, 11)
        wanted = [bool(nearest_seen(g.pairs, seen, node, 1)) for node in range(30)]
        assert related(g.pairs, seen).tolist() == wanted
