from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from mlkit.tasks.pretrain.sampling import clip_frames, draw_starts, even_starts


def drawn(
    count: int, clips: int, gap: int | None, length: int = 29, span: int = 10
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([draw_starts(length, span, clips, gap, generator) for _ in range(count)])


@pytest.mark.parametrize("clips", [1, 2, 4])
def test_starts_are_uniform_and_independent(clips: int) -> None:
    starts = drawn(4000, clips, None)
    for column in starts.T:
        counts = np.bincount(column.numpy(), minlength=20)
        assert len(counts) == 20
        assert chisquare(counts).pvalue > 0.001
    if clips > 1:
        assert abs(np.corrcoef(starts[:, 0], starts[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("gap", [0, 3, 12])
def test_no_two_clips_are_further_apart_than_allowed(gap: int) -> None:
    starts = drawn(500, 3, gap)
    distance = starts.amax(1) - starts.amin(1)
    assert int(distance.max()) == gap
    assert int(starts.min()) == 0
    assert int(starts.max()) == 19


def test_one_clip_is_taken_twice() -> None:
    starts = drawn(50, 1, None)
    assert starts.shape == (50, 2)
    assert torch.equal(starts[:, 0], starts[:, 1])
    assert len(starts[:, 0].unique()) > 5


def test_seeds_reproduce() -> None:
    assert torch.equal(drawn(20, 4, 5), drawn(20, 4, 5))


def test_a_short_video_is_repeated_at_its_end() -> None:
    assert drawn(3, 2, None, length=5).tolist() == [[0, 0]] * 3
    assert clip_frames(0, 10, 5, 6).tolist() == [0, 2, 4, 5, 5]


def test_frames_of_a_clip_are_evenly_spaced() -> None:
    """From start to start + T tau - 1: the step is (T tau - 1) / (T - 1), not tau."""
    frames = clip_frames(7, 64, 8, 1000)
    assert frames[0] == 7
    assert frames[-1] == 70
    assert set(np.diff(frames)) == {9}
    assert clip_frames(3, 4, 1, 10).tolist() == [3]
    assert clip_frames(0, 32, 8, 100).tolist() == [0, 4, 9, 13, 18, 22, 27, 31]


def test_views_lie_evenly() -> None:
    assert even_starts(100, 20, 5) == [0, 20, 40, 60, 80]
    assert even_starts(100, 20, 1) == [40]
    assert even_starts(10, 20, 3) == [0, 0, 0]
