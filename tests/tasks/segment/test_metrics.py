from __future__ import annotations

import numpy as np
import pytest

from mlkit.tasks.segment.metrics import Overlap, summarise

from .helpers import box_mask


def test_a_perfect_mask_scores_one_everywhere() -> None:
    mask = box_mask(6, 6, 1, 1, 4, 4)
    assert set(summarise([Overlap.of(mask, mask)]).values()) == {1.0}
    nothing = np.zeros((3, 3), dtype=bool)
    assert Overlap.of(nothing, nothing).iou == 1
    assert Overlap.of(mask, np.zeros_like(mask)).iou == 0


def test_overall_iou_sums_before_it_divides() -> None:
    scores = summarise([Overlap(1, 4), Overlap(60, 80)])
    assert scores["overall"] == pytest.approx(61 / 84)
    assert scores["mean"] == pytest.approx((0.25 + 0.75) / 2)
    assert scores["prec@0.5"] == scores["prec@0.7"] == 0.5
    assert scores["prec@0.8"] == 0
    assert summarise([Overlap(1, 2)])["prec@0.5"] == 1  # at least


@pytest.mark.parametrize("seed", range(20))
def test_precision_falls_and_order_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = random.integers(0, 50, (int(random.integers(1, 20)), 2)).tolist()
    overlaps = [Overlap(inside, inside + extra + 1) for inside, extra in pairs]
    scores = summarise(overlaps)
    precisions = [value for name, value in scores.items() if name.startswith("prec")]
    assert precisions == sorted(precisions, reverse=True)
    assert summarise(overlaps[::-1]) == pytest.approx(scores)


def test_overlap_counts_pixels_one_by_one() -> None:
    random = np.random.default_rng(0)
    one, two = random.random((2, 20, 20)) < 0.4
    pairs = list(zip(one.ravel().tolist(), two.ravel().tolist(), strict=True))
    assert Overlap.of(one, two) == Overlap(
        pairs.count((True, True)), 400 - pairs.count((False, False))
    )
