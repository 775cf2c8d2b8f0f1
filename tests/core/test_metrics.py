from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mlkit.core.metrics import Proportion, correct_in_top_k, psnr, ssim


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


def test_psnr_is_the_formula() -> None:
    truth = torch.rand(1, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    assert psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-4)
    assert psnr(255 * (truth + 0.1), 255 * truth, 255) == pytest.approx(20, abs=1e-4)
    assert psnr(truth, truth) == float("inf")


def test_ssim_against_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    truth = gaussian_filter(random.random((40, 35)), 1.5)
    image = truth + 0.05 * random.standard_normal(truth.shape)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    a, b = blur(image), blur(truth)
    spread = blur(image**2) - a**2 + blur(truth**2) - b**2
    joint = blur(image * truth) - a * b
    expected = (2 * a * b + 1e-4) * (2 * joint + 9e-4) / ((a**2 + b**2 + 1e-4) * (spread + 9e-4))
    found = ssim(torch.from_numpy(image)[None, None], torch.from_numpy(truth)[None, None])
    assert found == pytest.approx(float(expected.mean()), abs=1e-9)
    assert ssim(torch.from_numpy(truth)[None, None], torch.from_numpy(truth)[None, None]) == 1
