from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mlkit.core.metrics import Proportion, correct_in_top_k


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_scipys_wilson_interval(counts: tuple[int, int]) -> None:
    hits, total = counts
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert Proportion(hits, total).interval == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_top_k_by_sorting() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 7, (50,), generator=torch.Generator().manual_seed(1))
    for k in (1, 3, 5, 9):
        ranked = logits.argsort(1, descending=True)[:, :k]
        expected = sum(
            int(label) in row.tolist() for label, row in zip(labels, ranked, strict=True)
        )
        assert correct_in_top_k(logits, labels, k) == expected
