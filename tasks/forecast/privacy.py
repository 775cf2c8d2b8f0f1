"""Averages of updates that a bad or a curious party cannot abuse: robust, clipped, noised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Average = Literal["mean", "median", "trimmed"]
TRIMMED = 0.1  # share of the nodes that is cut off at either end
ORDERS = (*range(2, 65), 128, 256, 512)


def aggregate(weights: Tensor, counts: Tensor, kind: Average) -> Tensor:
    """Return one row (1, P) from the weights (m, P) of m nodes.

    `counts` (m,) weigh the mean; median and trimmed mean take every node alike, coordinate by
    coordinate, and so bear a minority of wrong updates (Yin et al. 2018).
    """
    if kind == "mean":
        share = (counts / counts.sum()).to(weights.dtype)
        return (share[:, None] * weights).sum(0, keepdim=True)
    if kind == "median":
        return weights.quantile(0.5, dim=0, keepdim=True)
    cut = min(max(1, round(TRIMMED * len(weights))), (len(weights) - 1) // 2)
    ordered = weights.sort(0).values
    return ordered[cut : len(weights) - cut].mean(0, keepdim=True)


def clip_rows(updates: Tensor, bound: float) -> Tensor:
    """Scale rows (m, P) down to an L2 norm of at most `bound`."""
    norms = updates.norm(dim=1, keepdim=True)
    return updates * (bound / norms.clamp_min(1e-12)).clamp_max(1)


def private_encodings(
    encodings: Tensor, clip: float, noise: float, draws: Sequence[torch.Generator]
) -> Tensor:
    """Clip each window's encoding (n, B, L, h) to the norm `clip`, add noise of `noise` clips.

    Every node draws from its own of the n generators. 0 leaves either step out.
    """
    if not clip:
        return encodings
    norm = encodings.flatten(2).norm(dim=-1)[..., None, None]
    clipped = encodings * (clip / norm.clamp_min(1e-12)).clamp_max(1)
    if not noise:
        return clipped
    rows = [torch.randn(clipped.shape[1:], generator=generator) for generator in draws]
    return clipped + clip * noise * torch.stack(rows).to(clipped.device)


def private_mean(
    before: Tensor,
    weights: Tensor,
    expected: float,
    clip: float,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """Return before + (sum of clipped updates + Gaussian noise) / expected participants, (1, P).

    The noise has the deviation `noise` * `clip` per coordinate of the sum (DP-FedAvg with a fixed
    denominator, McMahan et al. 2018): one node more or less moves the sum by at most `clip`.
    """
    total = clip_rows(weights - before, clip).sum(0, keepdim=True)
    drawn = torch.randn(total.shape, generator=generator).to(total.device)
    return before + (total + noise * clip * drawn) / expected


def renyi(order: int, rate: float, noise: float) -> float:
    """Return the Renyi divergence bound of one round of the sampled Gaussian mechanism.

    Integer orders alpha >= 2; each node takes part with probability `rate`. Mironov, Talwar,
    Zhang 2019, eq. (5): log(sum_k C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 z^2)))
    / (alpha - 1).
    """
    if rate == 1:
        return order / (2 * noise**2)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate)
        + (k * k - k) / (2 * noise**2)
        for k in range(order + 1)
    ]  # fmt: skip
    top = max(terms)
    return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)


def epsilon(rounds: int, rate: float, noise: float, delta: float) -> float:
    """Return the epsilon of (epsilon, delta) differential privacy after `rounds` rounds.

    Renyi divergences add up; the best order converts by Balle et al. 2020, theorem 21. inf
    without noise, 0 before the first round.
    """
    if rounds == 0:
        return 0.0
    if noise == 0:
        return math.inf
    bounds = [
        rounds * renyi(order, rate, noise)
        + math.log1p(-1 / order)
        - math.log(delta * order) / (order - 1)
        for order in ORDERS
    ]
    return max(0.0, min(bounds))
