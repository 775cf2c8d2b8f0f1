"""The temporal blocking decoder: boxes and contents, refined layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .deformable import DeformableAttention, Shapes
from .encoder import MLP, box_head, class_head
from .geometry import embed_boxes, from_box, to_box
from .queries import Assembled
from .refinement import Refinement


class Memory(NamedTuple):
    """The encoder's output for one or more frames.

    `tokens` (B, N, d); `shapes` of the levels; `padding` (B, N) or None; `extent` (B, L, 2).
    """

    tokens: Tensor
    shapes: Shapes
    padding: Tensor | None
    extent: Tensor

    def frame(self, index: int) -> Memory:
        """Return the memory of one frame, B = 1."""
        one = slice(index, index + 1)
        padding = None if self.padding is None else self.padding[one]
        return Memory(self.tokens[one], self.shapes, padding, self.extent[one])


class DecoderLayer(nn.Module):
    """Refinement (except in the first layer), self-attention, deformable cross-attention, FFN."""

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, ffn: int, refine: bool
    ) -> None:
        super().__init__()
        self.history_qim = Refinement(dim, heads) if refine else None
        self.self_attn = nn.MultiheadAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, memory: Memory, queries: Assembled
    ) -> Tensor:
        """Return contents (Q, d); `boxes` (Q, 4) are the references."""
        x = self.refine(x, position, queries)
        x = self.attend(x, position, queries.blocked)
        references = boxes[None, :, None] * torch.cat((memory.extent, memory.extent), -1)[:, None]
        found = self.cross_attn(
            (x + position)[None], references, memory.tokens, memory.shapes, memory.padding
        )
        x = self.norm1(x + found[0])
        return self.norm3(x + self.linear2(self.linear1(x).relu()))

    def refine(self, x: Tensor, position: Tensor, queries: Assembled) -> Tensor:
        """Refine main and historical queries, once a track has history."""
        if self.history_qim is None or not queries.has_history:
            return x
        start = queries.first_track
        refined = self.history_qim(x[start:], position[start:], queries.strangers)
        return torch.cat((x[:start], refined))

    def attend(self, x: Tensor, position: Tensor, blocked: Tensor) -> Tensor:
        """Return contents after self-attention."""
        placed = x + position
        found = self.self_attn(placed, placed, x, attn_mask=blocked, need_weights=False)[0]
        return self.norm2(x + found)


class Decoded(NamedTuple):
    """Per layer: `logits` (L, Q, C), `boxes` (L, Q, 4); and the last `content` (Q, d)."""

    logits: Tensor
    boxes: Tensor
    content: Tensor


class Decoder(nn.Module):
    """Layers that share one class head and one box head."""

    def __init__(
        self,
        dim: int,
        heads: int,
        levels: int,
        points: int,
        ffn: int,
        layers: int,
        classes: int,
        irm: bool,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads, levels, points, ffn, irm and i > 0) for i in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.ref_point_head = MLP(2 * dim, dim, dim)
        self.class_embed = class_head(dim, classes)
        self.bbox_embed = box_head(dim)

    def forward(self, queries: Assembled, memory: Memory, *, last_only: bool = False) -> Decoded:
        """Decode one frame; `last_only` gives the last layer's predictions alone (L = 1).

        References are detached between layers, but a prediction builds on the reference before
        that was not ("look forward twice", DINO).
        """
        x, boxes = queries.content, queries.boxes.detach()
        live, outputs, bases = boxes, [], []
        widths = torch.cat((memory.extent[0, 0], memory.extent[0, 0]))
        for layer in self.layers:
            position = self.ref_point_head(embed_boxes(boxes * widths, self.dim))
            if len(x):  # with given boxes a frame may have none, before the first track
                x = layer(x, position, boxes, memory, queries)
            outputs.append(self.norm(x))
            bases.append(live)
            live = to_box(self.bbox_embed(x) + from_box(boxes))
            boxes = live.detach()
        if last_only:
            outputs, bases = outputs[-1:], bases[-1:]
        contents, references = torch.stack(outputs), torch.stack(bases)
        predicted = to_box(self.bbox_embed(contents) + from_box(references))
        return Decoded(self.class_embed(contents), predicted, contents[-1])
