"""The repair's objective: feature maps of the pruned backbone against those of the unpruned one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The paper's code fixes the width of the quadratic part of the robust losses.
HUBER_DELTA = 0.06

_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "huber": lambda a, b: F.huber_loss(a, b, delta=HUBER_DELTA),
    "smooth-l1": lambda a, b: F.smooth_l1_loss(a, b, beta=HUBER_DELTA),
}


def tap_weights(method: int, count: int) -> list[float]:
    """Return alpha_1..alpha_L by the numbering of the paper's code (`loss_weight_method`).

    0: 1; 1: i/L; 2: i/L + 1; 3: i/L + 2; 4..10: k i/L + 1 with k = 2..8; 11: 6 i/L.
    """
    places = [(i + 1) / count for i in range(count)]
    if method == 0:
        return [1.0] * count
    if method in (1, 2, 3):
        return [place + method - 1 for place in places]
    if method == 11:
        return [6 * place for place in places]
    if 4 <= method <= 10:
        return [(method - 2) * place + 1 for place in places]
    raise ValueError(f"alpha method {method} is not in 0..11")


def feature_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float], distance: str
) -> Tensor:
    """Return sum_i alpha_i * distance(F'_i, F_i), each distance a mean over all elements."""
    measure = _DISTANCES[distance]
    terms = [
        weight * measure(a.float(), b.float())
        for a, b, weight in zip(student, teacher, weights, strict=True)
    ]
    return torch.stack(terms).sum()
