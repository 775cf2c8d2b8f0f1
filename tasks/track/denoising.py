"""Contrastive denoising (DINO): reconstruct boxes from near copies, reject copies farther off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .geometry import corners
from .queries import Denoising

BOX_NOISE, LABEL_NOISE = 0.4, 0.5


def make_denoising(
    boxes: Tensor, labels: Tensor, label_enc: nn.Embedding, pairs: int
) -> Denoising | None:
    """Return noisy copies of the objects of a frame (boxes (T, 4), labels (T,) from 0).

    About `pairs` pairs in groups of T: each has a positive, whose corners move by up to 0.4 half
    sides, and a negative, whose corners move by 0.4 to 0.8. A quarter of the labels is drawn anew.
    None when there are no objects or no pairs. Random numbers come from torch's global generator.
    """
    count = len(boxes)
    if count == 0 or pairs == 0:
        return None
    groups = max(1, pairs // count)
    copies = 2 * groups
    target = torch.arange(count, device=boxes.device).repeat(copies)
    positive = (torch.arange(copies, device=boxes.device) % 2 == 0).repeat_interleave(count)
    group = (torch.arange(copies, device=boxes.device) // 2).repeat_interleave(count)
    noisy = _move_corners(boxes[target], positive)
    flipped = torch.rand(len(target), device=boxes.device) < 0.5 * LABEL_NOISE
    classes = label_enc.num_embeddings - 1
    random = torch.randint(0, classes, (len(target),), device=boxes.device)
    content = label_enc(torch.where(flipped, random, labels[target]))
    return Denoising(content, noisy, group, target, positive, groups)


def _move_corners(boxes: Tensor, positive: Tensor) -> Tensor:
    sign = torch.randint(0, 2, boxes.shape, device=boxes.device) * 2 - 1
    size = torch.rand(boxes.shape, device=boxes.device) + (~positive)[:, None]
    half = torch.cat((boxes[:, 2:], boxes[:, 2:]), dim=1) / 2
    moved = corners(boxes) + sign * size * half * BOX_NOISE
    low, high = moved[:, :2].minimum(moved[:, 2:]), moved[:, :2].maximum(moved[:, 2:])
    return torch.cat(((low + high) / 2, high - low), dim=1)
