from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from mlkit.tasks.pretrain import probe


def blobs(noise: float = 0.3, count: int = 60) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    labels = [i % 3 for i in range(count)]
    centres = torch.eye(5)[:3]
    return centres[labels] + noise * torch.randn(count, 5, generator=generator), labels


def test_the_probe_finds_what_is_there_and_nothing_else() -> None:
    features, labels = blobs()
    folds = probe.folds_at_random(labels, 0)
    assert probe.linear_probe(features, labels, folds).value > 0.9
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    assert probe.linear_probe(noise, labels, folds).value < 0.6
    assert probe.linear_probe(features, labels, folds).total == 60


def test_folds_are_even_and_disjoint() -> None:
    labels = [0] * 10 + [1] * 15
    folds = probe.folds_at_random(labels, 3)
    tested = np.concatenate([test for _, test in folds])
    assert sorted(tested.tolist()) == list(range(25))
    for train, test in folds:
        assert not set(train) & set(test)
        assert np.bincount(np.array(labels)[test]).tolist() == [2, 3]
    groups = probe.folds_by_group(["a", "b", "a", "c"])
    assert [test.tolist() for _, test in groups] == [[0, 2], [1], [3]]


def test_neighbours_vote_as_those_of_scikit_learn() -> None:
    features, labels = blobs(0.7)
    z = F.normalize(features, dim=1).double()
    folds = probe.folds_at_random(labels, 0)

    def weights(squared: np.ndarray) -> np.ndarray:
        return np.exp((1 - squared**2 / 2) / probe.KNN_TEMPERATURE)

    hits = 0
    for train, test in folds:
        theirs = KNeighborsClassifier(7, weights=weights)
        theirs.fit(z[train].numpy(), np.array(labels)[train])
        hits += int((theirs.predict(z[test].numpy()) == np.array(labels)[test]).sum())
    assert probe.knn(features, labels, folds, 7).hits == hits


def test_a_sample_is_not_its_own_neighbour() -> None:
    pairs = torch.eye(4).repeat_interleave(2, 0)
    assert probe.knn_left_out(pairs, [0, 0, 1, 1, 2, 2, 3, 3], 1) == 1
    assert probe.knn_left_out(pairs, [0, 1] * 4, 1) == 0


def test_retrieval_is_average_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 30, generator=generator)
    queries, gallery = torch.arange(12) % 4, torch.arange(30) % 4
    found = probe.retrieve(scores, queries, gallery)
    wanted = [
        average_precision_score((gallery == q).numpy(), row.numpy())
        for q, row in zip(queries, scores, strict=True)
    ]
    assert found.mean_ap == pytest.approx(float(np.mean(wanted)), abs=1e-6)
    best = gallery[scores.argmax(1)] == queries
    assert found.rank1.value == pytest.approx(float(best.float().mean()))


def test_the_last_clip_finds_the_first() -> None:
    views = torch.eye(6)[:, None].repeat(1, 3, 1)
    assert probe.same_video(views).rank1.value == 1
    views[:, -1] = views[:, -1].roll(1, 0)
    found = probe.same_video(views)
    assert found.rank1.value == 0
    assert 0 < found.mean_ap < 1


def test_groups_of_one_do_not_ask() -> None:
    features = torch.tensor([[1.0, 0], [1, 0.1], [0, 1]])
    found = probe.same_group(features, ["a", "a", "b"])
    assert (found.rank1.hits, found.rank1.total, found.mean_ap) == (2, 2, 1.0)
