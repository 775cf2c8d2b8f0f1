"""Boxes of queries as tensors: ranges beyond the image, embeddings, overlaps."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

EPS = 1e-3


def to_box(logits: Tensor) -> Tensor:
    """Map logits (..., 4) to boxes (cx, cy, w, h): centres in [-1, 2], sizes in [0, 2].

    In units of the image. Objects reach over the frame, so boxes may too.
    """
    scale = logits.new_tensor((3.0, 3.0, 2.0, 2.0))
    shift = logits.new_tensor((1.0, 1.0, 0.0, 0.0))
    return logits.sigmoid() * scale - shift


def from_box(boxes: Tensor) -> Tensor:
    """Return the logits of boxes (..., 4); the inverse of `to_box`, clamped at 1e-3."""
    scale = boxes.new_tensor((3.0, 3.0, 2.0, 2.0))
    shift = boxes.new_tensor((1.0, 1.0, 0.0, 0.0))
    share = ((boxes + shift) / scale).clamp(EPS, 1 - EPS)
    return torch.logit(share)


def embed_boxes(boxes: Tensor, dim: int) -> Tensor:
    """Return sine embeddings (..., 2 * dim) of boxes (..., 4), coordinates in the order y, x, w, h.

    `dim` / 2 numbers per coordinate, temperature 10000.
    """
    half = dim // 2
    place = torch.arange(half, dtype=boxes.dtype, device=boxes.device)
    period = 10000 ** (2 * (place // 2) / half)
    angles = boxes[..., (1, 0, 2, 3), None] * (2 * math.pi) / period
    waves = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1)
    return waves.flatten(-3)


def embed_grid(height: int, width: int, dim: int, extent: Tensor) -> Tensor:
    """Return the sine position encoding (B, height * width, dim) of a feature map.

    `extent` (B, 2) is the share (width, height) of the map that is no padding; temperature 20.
    """
    half = dim // 2
    place = torch.arange(half, dtype=extent.dtype, device=extent.device)
    period = 20 ** (2 * (place // 2) / half)

    def waves(count: int, share: Tensor) -> Tensor:
        steps = torch.arange(1, count + 1, dtype=extent.dtype, device=extent.device)
        valid = (share * count).round().clamp_min(1)[:, None]
        angles = (steps.minimum(valid) / (valid + 1e-6) * 2 * math.pi)[..., None] / period
        return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)

    rows = waves(height, extent[:, 1])[:, :, None].expand(-1, -1, width, -1)
    columns = waves(width, extent[:, 0])[:, None].expand(-1, height, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(1, 2)


def corners(boxes: Tensor) -> Tensor:
    """Return (left, top, right, bottom) of boxes (cx, cy, w, h)."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised overlap of all pairs, (N, M), in [-1, 1]."""
    from torchvision.ops import generalized_box_iou  # seconds, which tracking can spare

    return generalized_box_iou(corners(a), corners(b))


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised overlap of row i of `a` with row i of `b`, (N,)."""
    one, two = corners(a), corners(b)
    inner = (one[:, 2:].minimum(two[:, 2:]) - one[:, :2].maximum(two[:, :2])).clamp_min(0).prod(-1)
    outer = (one[:, 2:].maximum(two[:, 2:]) - one[:, :2].minimum(two[:, :2])).prod(-1)
    union = a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - inner
    return inner / union.clamp_min(1e-9) - (outer - union) / outer.clamp_min(1e-9)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of all pairs, (N, M)."""
    one, two = corners(a)[:, None], corners(b)[None]
    inner = one[..., 2:].minimum(two[..., 2:]) - one[..., :2].maximum(two[..., :2])
    inner = inner.clamp_min(0).prod(-1)
    union = a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - inner
    return inner / union.clamp_min(1e-9)


def distinct(boxes: Tensor, labels: Tensor, priority: Tensor, most: float) -> Tensor:
    """Return which boxes (n, 4) remain, bool (n,): non-maximum suppression within classes.

    Of two whose intersection over union is above `most` the one of lower `priority` (n,) goes.
    """
    # torchvision has it, but importing torchvision takes longer than tracking a short video.
    same = labels[:, None] == labels[None]
    clash = ((overlaps(boxes, boxes) > most) & same).cpu().numpy()
    kept = np.zeros(len(boxes), dtype=bool)
    for i in priority.argsort(descending=True, stable=True).tolist():
        kept[i] = not (clash[i] & kept).any()
    return torch.from_numpy(kept).to(boxes.device)
