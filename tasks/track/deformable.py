"""Deformable attention over several feature levels (Zhu et al., ICLR 2021), with `grid_sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Each query looks at a few learned points around its reference, on every level."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset()

    def _reset(self) -> None:
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = directions[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).reshape(-1))
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Shapes,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Return (B, Q, d) from queries (B, Q, d) and memory (B, N, d), N = sum of h * w.

        `references` (B, Q, L, 2 or 4) are points or boxes (cx, cy, w, h) in units of the padded
        map of each level; `padding` (B, N) is True where the memory means nothing.
        """
        batch, count, dim = queries.shape
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        layout = (batch, count, self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).view(*layout, 2)
        weights = self.attention_weights(queries).view(batch, count, self.heads, -1).softmax(-1)
        places = self._places(references, offsets, shapes)
        sampled = self._sample(value, places, shapes)  # (B * heads, dim / heads, Q, L * points)
        weights = weights.transpose(1, 2).reshape(batch * self.heads, 1, count, -1)
        out = (sampled * weights).sum(-1).view(batch, dim, count).transpose(1, 2)
        return self.output_proj(out)

    def _places(self, references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
        """Return where to look, (B, Q, heads, L, points, 2), in units of each map."""
        reference = references[:, :, None, :, None]
        if references.shape[-1] == 4:
            return reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        size = offsets.new_tensor([(width, height) for height, width in shapes])
        return reference + offsets / size[:, None]

    def _sample(self, value: Tensor, places: Tensor, shapes: Shapes) -> Tensor:
        batch, _, dim = value.shape
        grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, L, points, 2)
        maps = value.split([height * width for height, width in shapes], dim=1)
        found = []
        for level, ((height, width), part) in enumerate(zip(shapes, maps, strict=True)):
            plane = part.transpose(1, 2).reshape(
                batch * self.heads, dim // self.heads, height, width
            )
            found.append(
                F.grid_sample(plane, grids[:, :, level], "bilinear", "zeros", align_corners=False)
            )
        return torch.cat(found, dim=-1)
