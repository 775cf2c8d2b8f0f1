from __future__ import annotations

import pytest
import torch

from mlkit.tasks.prune.losses import feature_loss, tap_weights


def test_weights_of_the_papers_code() -> None:
    assert tap_weights(0, 3) == [1, 1, 1]
    assert tap_weights(1, 4) == [0.25, 0.5, 0.75, 1.0]
    assert tap_weights(2, 8) == [1 + i / 8 for i in range(1, 9)]
    assert tap_weights(3, 2) == [2.5, 3.0]
    assert tap_weights(4, 2) == [2.0, 3.0]
    assert tap_weights(8, 8)[0] == 1.75
    assert tap_weights(8, 8)[-1] == 7.0
    assert tap_weights(10, 1) == [9.0]
    assert tap_weights(11, 2) == [3.0, 6.0]
    for wrong in (-1, 12):
        with pytest.raises(ValueError, match=r"0\.\.11"):
            tap_weights(wrong, 2)


def test_distances_by_hand() -> None:
    torch.manual_seed(0)
    student = [torch.randn(2, 3, 4, 4) * 0.1, torch.randn(2, 5)]
    teacher = [torch.randn(2, 3, 4, 4) * 0.1, torch.randn(2, 5)]
    d = [(a - b).abs().double() for a, b in zip(student, teacher, strict=True)]
    delta = 0.06
    small = [torch.where(x < delta, x**2 / 2, delta * (x - delta / 2)) for x in d]
    expected = {
        "l1": [x.mean() for x in d],
        "mse": [x.square().mean() for x in d],
        "huber": [x.mean() for x in small],
        "smooth-l1": [x.mean() / delta for x in small],
    }
    for name, terms in expected.items():
        found = feature_loss(student, teacher, [0.5, 2.0], name)
        assert float(found) == pytest.approx(float(0.5 * terms[0] + 2 * terms[1]), rel=1e-5)
