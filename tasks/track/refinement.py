"""The information refinement module: a track's queries learn from one another (ColTrack)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Collect(nn.Module):
    """Gather from the other queries of a track, then read them again with what was gathered."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn_cross = nn.MultiheadAttention(dim, heads)
        self.self_attn = nn.MultiheadAttention(dim, heads)

    def forward(self, x: Tensor, position: Tensor, strangers: Tensor) -> Tensor:
        """Return (R, d) from queries (R, d); `strangers` (R, R) is True at other tracks."""
        placed = x + position
        gathered = self.self_attn_cross(placed, placed, x, attn_mask=strangers, need_weights=False)
        found: Tensor = self.self_attn(gathered[0], x, x, attn_mask=strangers, need_weights=False)[
            0
        ]
        return found


class Refinement(nn.Module):
    """X' = LayerNorm(2 (1 - R) X + add), with one forget gate R per head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn_add, self.self_attn_drop = Collect(dim, heads), Collect(dim, heads)
        self.linear_drop = nn.Linear(dim, heads)
        self.norm = nn.LayerNorm(dim)
        self.channels = dim // heads

    def forward(self, x: Tensor, position: Tensor, strangers: Tensor) -> Tensor:
        """Return refined main and historical queries (R, d)."""
        add = self.self_attn_add(x, position, strangers)
        drop = self.self_attn_drop(x, position, strangers)
        gate = torch.sigmoid(self.linear_drop(drop.relu())).repeat_interleave(self.channels, dim=-1)
        return self.norm(2 * (1 - gate) * x + add)
