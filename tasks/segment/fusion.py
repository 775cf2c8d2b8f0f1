"""Gated fusion of three levels: each takes from the two others what its gates let through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GatedFusion(nn.Module):
    """O_i = g tanh(a_i m X_j + (1 - a_i) m X_k + (1 - m) c) + (1 - g) X_i; returns O5 + O4 + O3.

    [c, f, r] = conv3x3(X_i), m = sigmoid(f + 1), g = sigmoid(r + 1); a_i is learnt, begins at
    0.5 and may leave [0, 1]. The order of the levels is (5; 4, 3), (4; 5, 3), (3; 5, 4).
    """

    ORDER = ((0, 1, 2), (1, 0, 2), (2, 0, 1))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv2d(channels, 3 * channels, 3, padding=1) for _ in "543")
        self.mix = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, C, H, W) from the levels (5, 4, 3), each (B, C, H, W)."""
        fused = torch.zeros_like(levels[0])
        for i, j, k in self.ORDER:
            fused = fused + self.level(i, levels[i], levels[j], levels[k])
        return fused

    def level(self, i: int, own: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return O_i from X_i, X_j and X_k."""
        candidate, memory, reset = self.gates[i](own).chunk(3, 1)
        m, g, a = torch.sigmoid(memory + 1), torch.sigmoid(reset + 1), self.mix[i]
        mixed = a * m * first + (1 - a) * m * second + (1 - m) * candidate
        return g * torch.tanh(mixed) + (1 - g) * own


class SumFusion(nn.Module):
    """The levels added, without gates (an ablation)."""

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, C, H, W)."""
        return torch.stack(tuple(levels)).sum(0)
