"""The marks to beat: the last value, and the mean of the time of day."""

from __future__ import annotations

import torch
from torch import Tensor

from .windows import fill_forward


def last_value(values: Tensor, starts: Tensor, history: int, horizon: int) -> Tensor:
    """Return forecasts (N, B, H) that repeat the last known value of series (N, S)."""
    filled = fill_forward(values)
    return filled[:, starts + history - 1][..., None].expand(-1, -1, horizon)


def daily_profile(
    values: Tensor, slots: Tensor, known_steps: int, starts: Tensor, history: int, horizon: int
) -> Tensor:
    """Return each node's mean value at the time of day of the forecast steps, (N, B, H).

    `slots` (S,) numbers the times of day; only the first `known_steps` steps are averaged. A slot
    never seen takes the node's mean.
    """
    known = values[:, :known_steps]
    there = (~known.isnan()).double()
    exact = known.double().nan_to_num(0)
    size = int(slots.max()) + 1
    index = slots[:known_steps]
    sums = exact.new_zeros(len(values), size).index_add(1, index, exact)
    counts = exact.new_zeros(len(values), size).index_add(1, index, there)
    mean = exact.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp_min(1)
    profile = torch.where(counts > 0, sums / counts.clamp_min(1), mean)
    steps = torch.arange(history, history + horizon, device=starts.device)
    return profile[:, slots[starts[:, None] + steps]].to(values.dtype)
