"""Windows of series: views of one tensor, the split in time, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import DataError

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
SHARES = (0.7, 0.1, 0.2)  # of the windows, in time (DCRNN's split)


def split_starts(
    length: int, history: int, horizon: int, stride: int, eval_stride: int, name: str = "series"
) -> dict[Part, Tensor]:
    """Return the first steps of the windows of each part, int64, in order of time.

    All n = length - history - horizon + 1 windows are split 70/10/20, then thinned. Raises
    `DataError`, which calls the data `name`, when a part would be empty.
    """
    count = length - history - horizon + 1
    test, train = round(SHARES[2] * count), round(SHARES[0] * count)
    if count < 3 or min(test, train, count - test - train) < 1:
        raise DataError(
            f"{name}: {length} steps are too few for windows of {history} + {horizon}",
            f"at least {history + horizon + 6} are needed; or lower --history and --horizon",
        )
    return {
        "train": torch.arange(0, train, stride),
        "valid": torch.arange(train, count - test, eval_stride),
        "test": torch.arange(count - test, count, eval_stride),
    }


@dataclass(frozen=True)
class Scaler:
    """One mean and one standard deviation for all nodes."""

    mean: float
    std: float

    def scale(self, values: Tensor) -> Tensor:
        """Return standardised values."""
        return (values - self.mean) / self.std

    def restore(self, values: Tensor) -> Tensor:
        """Return values in the units of the data."""
        return values * self.std + self.mean


def scaler_of(sums: Tensor) -> Scaler:
    """Return the scaler from rows (count, sum, sum of squares), float64 (N, 3), one per node.

    Only these three numbers leave a node. A constant series gets the deviation 1.
    """
    count, total, squares = sums.double().sum(0).tolist()
    if count == 0:
        raise DataError("no value in the training part", "check --missing and the file")
    mean = total / count
    variance = max(squares / count - mean * mean, 0.0)
    return Scaler(mean, variance**0.5 if variance > 1e-12 * max(1.0, mean * mean) else 1.0)


def input_sums(values: Tensor, starts: Tensor, history: int) -> Tensor:
    """Return (count, sum, sum of squares), float64 (N, 3), over the inputs of all windows.

    A step counts as often as windows read it, as in DCRNN; NaN counts nowhere.
    """
    places = (starts[:, None] + torch.arange(history, device=starts.device)).flatten()
    times_read = torch.bincount(places, minlength=values.shape[1]).double()
    known = ~values.isnan()
    exact = values.double().nan_to_num(0)
    weight = times_read * known
    return torch.stack((weight.sum(1), (weight * exact).sum(1), (weight * exact**2).sum(1)), 1)


def fill_forward(values: Tensor) -> Tensor:
    """Replace NaN in (N, S) by the last known value before it, by 0 where there is none."""
    steps = torch.arange(values.shape[1], device=values.device)
    last = torch.where(values.isnan(), -1, steps).cummax(1).values
    found = values.gather(1, last.clamp_min(0))
    return found.where(last >= 0, 0)


@dataclass(frozen=True)
class Windows:
    """Standardised series with gaps filled, and what the windows of some steps hold.

    `inputs` (N, S) are filled, `targets` (N, S) are 0 where `observed` (N, S) is False, `times`
    (S,) is the time of day in [0, 1).
    """

    inputs: Tensor
    targets: Tensor
    observed: Tensor
    times: Tensor
    history: int
    horizon: int

    def past(self, starts: Tensor, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return values and times (n, B, T) of windows that start at `starts` (n or 1, B)."""
        places = starts[..., None] + torch.arange(self.history, device=starts.device)
        values = self.inputs[rows]
        return _pick(values, places), self.times[places].expand(len(values), -1, -1)

    def future(self, starts: Tensor, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """Return times, targets and what is observed, (n, B, H) each, of the steps to forecast."""
        steps = torch.arange(self.history, self.history + self.horizon, device=starts.device)
        places = starts[..., None] + steps
        targets, observed = self.targets[rows], self.observed[rows]
        times = self.times[places].expand(len(targets), -1, -1)
        return times, _pick(targets, places), _pick(observed, places)


def _pick(values: Tensor, places: Tensor) -> Tensor:
    """Return values (n, B, T) of (n, S) at places (n or 1, B, T)."""
    if len(places) == 1:
        return values[:, places[0]]
    return values.gather(1, places.flatten(1)).view(places.shape)


def make_windows(
    values: Tensor, times: Tensor, scaler: Scaler, history: int, horizon: int
) -> Windows:
    """Return the windows of series (N, S) in the data's units, NaN where nothing was measured."""
    scaled = scaler.scale(values)
    observed = ~values.isnan()
    targets = scaled.nan_to_num(0)
    return Windows(fill_forward(scaled), targets, observed, times, history, horizon)
