from __future__ import annotations

import numpy as np
import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.tasks.forecast.naive import daily_profile, last_value
from mlkit.tasks.forecast.sums import error_sums
from mlkit.tasks.forecast.windows import (
    Scaler,
    fill_forward,
    input_sums,
    make_windows,
    scaler_of,
    split_starts,
)

from .helpers import series


def test_split_of_dcrnn() -> None:
    parts = split_starts(2016, 12, 12, 1, 1)
    assert [len(parts[p]) for p in ("train", "valid", "test")] == [1395, 199, 399]
    every = torch.cat([parts[p] for p in ("train", "valid", "test")])
    assert torch.equal(every, torch.arange(1993))
    thin = split_starts(12672, 12, 12, 8, 4)
    assert [len(thin[p]) for p in ("train", "valid", "test")] == [1107, 317, 633]
    with pytest.raises(DataError, match="too few"):
        split_starts(25, 12, 12, 1, 1)


def test_federated_scaler_is_numpys_on_pooled_windows() -> None:
    values = series(4)
    values[1, 7] = torch.nan
    starts = torch.arange(0, 40, 3)
    pooled = np.concatenate([values[:, s : s + 6].numpy().ravel() for s in starts]).astype(float)
    found = scaler_of(torch.cat([input_sums(values[i : i + 1], starts, 6) for i in range(4)]))
    assert found.mean == pytest.approx(np.nanmean(pooled), rel=1e-6)
    assert found.std == pytest.approx(np.nanstd(pooled), rel=1e-6)
    constant = scaler_of(input_sums(torch.full((2, 50), 7.0), starts, 6))
    assert (constant.mean, constant.std) == (7, 1)


def test_gaps_are_filled_forward_and_masked() -> None:
    values = torch.tensor([[torch.nan, 1, torch.nan, torch.nan, 4]])
    assert fill_forward(values).tolist() == [[0, 1, 1, 1, 4]]
    windows = make_windows(values, torch.arange(5) / 5, Scaler(2.0, 2.0), 2, 2)
    assert windows.inputs[0].tolist() == [0, -0.5, -0.5, -0.5, 1]  # 0 is the mean of training
    times, targets, observed = windows.future(torch.tensor([[0, 1]]))
    assert observed.tolist() == [[[False, False], [False, True]]]
    assert targets.tolist() == [[[0, 0], [0, 1]]]
    assert times[0, 1].tolist() == pytest.approx([0.6, 0.8])


def test_windows_are_slices_whichever_way_they_are_asked_for() -> None:
    values = series(3)
    windows = make_windows(values, torch.zeros(90), Scaler(0, 1), 6, 4)
    shared = torch.tensor([[0, 5, 70]])
    own = torch.tensor([[0, 5, 70], [1, 2, 3], [80, 7, 9]])
    past, _ = windows.past(shared)
    each, _ = windows.past(own)
    _, future, _ = windows.future(own)
    for node in range(3):
        for place in range(3):
            begin = int(own[node, place])
            assert torch.equal(past[node, place], values[node, int(shared[0, place]) :][:6])
            assert torch.equal(each[node, place], values[node, begin : begin + 6])
            assert torch.equal(future[node, place], values[node, begin + 6 : begin + 10])
    assert windows.past(own[1:2], slice(1, 2))[0].tolist() == each[1:2].tolist()


def test_naive_forecasts() -> None:
    values = torch.tensor([[1.0, 2, 3, 4, 5, torch.nan, 7, 8]])
    starts = torch.tensor([0, 4])
    assert last_value(values, starts, 2, 2).tolist() == [[[2, 2], [5, 5]]]
    profile = daily_profile(values, torch.arange(8) % 2, 6, starts, 2, 2)
    assert profile.tolist() == [[[3, 3], [3, 3]]]  # odd rows (1, 3, 5), even rows (2, 4)


def test_error_sums_against_numpy() -> None:
    random = np.random.default_rng(0)
    forecast, truth = random.normal(5, 1, (2, 7, 3)), random.normal(5, 1, (2, 7, 3))
    truth[0, 2, 1], truth[1, 3, 2] = np.nan, 0
    sums = error_sums(torch.from_numpy(forecast), torch.from_numpy(truth)).numpy()
    error = forecast - truth
    assert sums[..., 0] == pytest.approx(np.nansum(error**2, 1))
    assert sums[..., 1] == pytest.approx(np.nansum(np.abs(error), 1))
    with np.errstate(divide="ignore"):
        percent = np.abs(error) / np.where(truth == 0, np.nan, np.abs(truth))
    assert sums[..., 2] == pytest.approx(np.nansum(percent, 1))
    assert sums[..., 3] == pytest.approx((~np.isnan(truth)).sum(1))
    assert sums[1, 2, 4] == 6
