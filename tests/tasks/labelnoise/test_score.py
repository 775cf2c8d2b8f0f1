from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from mlkit.tasks.labelnoise.data import Images
from mlkit.tasks.labelnoise.score import accuracies, auroc, average_precision, detection


@pytest.mark.parametrize("seed", range(40))
def test_ranking_scores_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 60))
    positive = random.random(count) < random.choice([0.0, 0.2, 0.5, 1.0])
    score = random.integers(0, 9, count) / 8  # with ties
    if positive.any():
        expected = average_precision_score(positive, score)
        assert average_precision(positive, score) == pytest.approx(expected)
    else:
        assert average_precision(positive, score) is None
    if positive.any() and not positive.all():
        assert auroc(positive, score) == pytest.approx(roc_auc_score(positive, score))
    else:
        assert auroc(positive, score) is None


def images_of(labels: torch.Tensor, classes: int) -> Images:
    names = [str(k) for k in range(classes)]
    return Images(torch.zeros(len(labels), 3, 1, 1), labels, names, [""] * len(labels))


def test_accuracy_of_large_middle_and_small_classes() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    predicted = torch.tensor([0, 0, 1, 0, 2, 2, 0, 0, 4, 0])
    found = accuracies(predicted, images_of(labels, 6), [5, 90, 40, 30, 70, 20])
    assert found["top1"] == pytest.approx(0.6)
    expected = balanced_accuracy_score(labels, predicted)
    assert found["balanced"] == pytest.approx(expected)
    # By training size: 1, 4 | 2, 3 | 5 (without test images), 0.
    assert found["many"] == 0.5
    assert found["medium"] == 0.5
    assert found["few"] == 1.0


def test_flags_against_the_truth() -> None:
    wrong = np.array([True, True, False, False])
    found = detection(wrong, np.array([True, False, True, False]), np.array([0.9, 0.2, 0.8, 0.1]))
    assert (found["precision"], found["recall"], found["precision@k"]) == (0.5, 0.5, 0.5)
    nothing = detection(wrong & False, wrong & False, np.zeros(4))
    assert nothing["precision"] is nothing["recall"] is nothing["AP"] is None
