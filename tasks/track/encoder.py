"""The deformable encoder and the proposals that it makes for new objects."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .backbone import Levels
from .deformable import DeformableAttention, Shapes
from .geometry import from_box


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def box_head(dim: int) -> MLP:
    """Return a head for corrections of boxes that starts with none."""
    head = MLP(dim, dim, dim, 4)
    nn.init.zeros_(head.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(head.layers[-1].bias)  # type: ignore[arg-type]
    return head


def class_head(dim: int, classes: int) -> nn.Linear:
    """Return a head for class logits that starts at a probability of 1 %."""
    head = nn.Linear(dim, classes)
    nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
    return head


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward layer, normalised behind each."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, levels: Levels, references: Tensor) -> Tensor:
        """Return tokens (B, N, d)."""
        found = self.self_attn(x + levels.positions, references, x, levels.shapes, levels.padding)
        x = self.norm1(x + found)
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class Proposals(NamedTuple):
    """What each token would detect: logits (B, N, C) and box logits (B, N, 4)."""

    logits: Tensor
    anchors: Tensor


class Encoder(nn.Module):
    """Layers of deformable self-attention over all tokens; none at all is allowed."""

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, ffn: int, layers: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, levels, points, ffn) for _ in range(layers)
        )

    def forward(self, levels: Levels) -> Tensor:
        """Return the memory (B, N, d)."""
        centres = token_centres(levels.shapes, levels.extent)
        references = centres[:, :, None] * levels.extent[:, None]
        x = levels.tokens
        for layer in self.layers:
            x = layer(x, levels, references)
        return x


class ProposalHead(nn.Module):
    """A box and class logits at every token (the first of DINO's two stages)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.enc_out_class_embed = class_head(dim, classes)
        self.enc_out_bbox_embed = box_head(dim)

    def forward(
        self, memory: Tensor, shapes: Shapes, extent: Tensor, padding: Tensor | None
    ) -> Proposals:
        """Return a proposal for every token of memory (B, N, d).

        Tokens in the padding, or with an anchor that leaves (0.01, 0.99), propose nothing: their
        memory is zero and their anchor infinite.
        """
        anchors = token_anchors(shapes, extent)
        useless = ((anchors <= 0.01) | (anchors >= 0.99)).any(-1)
        if padding is not None:
            useless = useless | padding
        logits = from_box(anchors).masked_fill(useless[..., None], math.inf)
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(useless[..., None], 0.0)))
        return Proposals(self.enc_out_class_embed(tokens), self.enc_out_bbox_embed(tokens) + logits)


def token_centres(shapes: Shapes, extent: Tensor) -> Tensor:
    """Return the centres (B, N, 2) of tokens in units of the valid part of the image."""
    parts = []
    for level, (height, width) in enumerate(shapes):
        size = extent.new_tensor((width, height))
        x = torch.arange(width, device=extent.device, dtype=extent.dtype) + 0.5
        y = torch.arange(height, device=extent.device, dtype=extent.dtype) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        parts.append(grid / (size * extent[:, None, level]))
    return torch.cat(parts, dim=1)


def token_anchors(shapes: Shapes, extent: Tensor) -> Tensor:
    """Return the anchors (B, N, 4): each token's centre with sides of 0.05 * 2^level."""
    centres = token_centres(shapes, extent)
    sides = [
        centres.new_full((height * width, 2), 0.05 * 2**level)
        for level, (height, width) in enumerate(shapes)
    ]
    return torch.cat((centres, torch.cat(sides).expand(len(centres), -1, -1)), dim=-1)
