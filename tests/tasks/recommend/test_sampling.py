from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare

from mlkit.tasks.recommend.data import from_lists
from mlkit.tasks.recommend.sampling import (
    Histories,
    Law,
    LogUniform,
    Uniform,
    draw_distinct,
    log_expected_count,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_log_uniform_is_zipfs_law() -> None:
    law = LogUniform(100)
    ids = torch.arange(100)
    wanted = [math.log((c + 2) / (c + 1)) / math.log(101) for c in range(100)]
    assert law.probability(ids).tolist() == pytest.approx(wanted)
    assert float(law.probability(ids).sum()) == pytest.approx(1)
    counts = torch.bincount(law.draw(100_000, generator()), minlength=100)
    assert chisquare(counts.numpy(), 100_000 * law.probability(ids).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("law", [LogUniform(50), Uniform(50)])
def test_distinct_draws_reject_repeats_one_at_a_time(law: Law) -> None:
    for seed in range(20):
        ids, draws = draw_distinct(law, 20, generator(seed))
        stream = law.draw(40, generator(seed)).tolist()
        seen: list[int] = []
        for position, item in enumerate(stream):
            if item not in seen:
                seen.append(item)
            if len(seen) == 20:
                assert (ids.tolist(), draws) == (seen, position + 1)
                break
        else:  # more than one block of draws was needed
            assert draws > 40
        assert len(set(ids.tolist())) == 20


def test_inclusion_follows_the_expected_count() -> None:
    """Given q draws, an id is among them with probability 1 - (1 - P)^q (chi-square per id)."""
    law, rounds, draws = LogUniform(30), 4000, 25
    counts = torch.zeros(30)
    source = generator()
    for _ in range(rounds):
        counts[law.draw(draws, source).unique()] += 1
    wanted = log_expected_count(law, torch.arange(30), draws).exp() * rounds
    deviation = (counts - wanted) / (wanted * (1 - wanted / rounds)).sqrt()
    assert float(deviation.square().sum()) < 60  # 30 degrees of freedom, p about 0.001


def test_batches_hold_cuts_of_their_users() -> None:
    rows = [list(range(10 * u + 1, 10 * u + 1 + n)) for u, n in enumerate((2, 5, 6, 9))]
    source = Histories(from_lists(rows), 60, 3, 2)
    seen: dict[int, set[int]] = {u: set() for u in range(4)}
    for seed in range(200):
        batch = source.fetch(torch.arange(4), generator(seed))
        assert len(batch.negatives) == 8
        for user, row in enumerate(rows):
            cut = row.index(int(batch.targets[user]))
            seen[user].add(cut)
            history = row[:cut][-3:]
            assert batch.histories[user].tolist() == history + [0] * (3 - len(history))
    assert seen == {0: {1}, 1: {4}, 2: {4, 5}, 3: {4, 5, 6, 7, 8}}


def test_the_same_generator_gives_the_same_batch_and_small_tables_fewer_negatives() -> None:
    source = Histories(from_lists([[1, 2, 3, 4, 5]] * 8), 6, 3, 10)
    one, two = (source.fetch(torch.arange(8), generator(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len(one.negatives) == 3  # half of the six rows
    full = Histories(source.sequences, 6, 3, 10, "full").fetch(torch.arange(8), generator(5))
    assert len(full.negatives) == 0
