from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlkit.tasks.recommend.aggregate import Labels, recommend_lists
from mlkit.tasks.recommend.config import ColumnOptions, ModelOptions, SplitOptions
from mlkit.tasks.recommend.data import read_log
from mlkit.tasks.recommend.model import Popular, Recommender
from mlkit.tasks.recommend.score import Protocol, score_users
from mlkit.tasks.recommend.split import Split, make_split

from .helpers import small_log


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(read_log(small_log(tmp_path), ColumnOptions()), SplitOptions(min_count=1))


def test_most_popular_is_a_count(split: Split) -> None:
    found = score_users(Popular(split.counts), split.test, 5, None, Protocol(lengths=(3,)))[0.0]
    ones = torch.ones(1, 1, 1)
    top = set(recommend_lists(ones, split.counts.float()[:, None], 3).items[0].tolist())
    assert sorted(split.counts[list(top)]) == sorted(split.counts.topk(3).values)
    for user in range(len(split.test)):
        aims = set(split.test.targets[user].tolist())
        assert float(found["recall@3"][user]) == len(aims & top) / len(aims)
        assert float(found["hit@3"][user]) == bool(aims & top)


@pytest.mark.parametrize("exclude", [False, True])
def test_scores_do_not_depend_on_the_batch_and_follow_the_lists(
    split: Split, exclude: bool
) -> None:
    torch.manual_seed(0)
    model = Recommender(len(split.names) - 1, ModelOptions(dim=8, max_history=6)).eval()
    labels = Labels(torch.arange(len(split.names)) % 4)
    protocol = Protocol(lengths=(5, 10), dial=(0.0, 0.3), exclude_seen=exclude, batch=7)
    found = score_users(model, split.test, 6, labels, protocol)
    for dial in (0.0, 0.3):
        for length in (5, 10):
            for user in range(len(split.test)):
                history = split.test.histories.last(6)[user : user + 1]
                seen = split.test.histories[user].long()
                pairs = (torch.zeros_like(seen), seen) if exclude else None
                with torch.no_grad():
                    lists = recommend_lists(
                        model(history),
                        model.item_vectors,
                        length,
                        dial=dial,
                        labels=labels,
                        exclude=pairs,
                    )
                aims = set(split.test.targets[user].tolist())
                hits = len(aims & set(lists.items[0].tolist()))
                assert float(found[dial][f"recall@{length}"][user]) == hits / len(aims)
                diversity = float(labels.diversity(lists.items))
                assert float(found[dial][f"diversity@{length}"][user]) == pytest.approx(diversity)
