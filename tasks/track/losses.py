"""What a set of queries costs against the objects of a frame, and who is matched with whom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from .geometry import giou, paired_giou

CLASS, BOX, GIOU = 1.0, 5.0, 2.0  # weights of the losses
COST_CLASS, COST_BOX, COST_GIOU = 2.0, 5.0, 2.0  # weights in the matching
ALPHA, GAMMA = 0.25, 2.0
FALSE = -3  # identity of a track that was never an object


class Truth(NamedTuple):
    """A frame's objects: `boxes` (T, 4) (cx, cy, w, h), `labels` (T,) from 0, `identity` (T,)."""

    boxes: Tensor
    labels: Tensor
    identity: Tensor


class Terms(NamedTuple):
    """Sums of the three losses, not yet divided by anything."""

    classes: Tensor
    boxes: Tensor
    overlap: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum."""
        return CLASS * self.classes + BOX * self.boxes + GIOU * self.overlap


def matching_cost(logits: Tensor, boxes: Tensor, truth: Truth) -> Tensor:
    """Return the cost (..., Q, T) of giving each object to each query.

    2 focal class cost + 5 L1 + 2 (-GIoU), for logits (..., Q, C) and boxes (..., Q, 4).
    """
    p = logits.sigmoid()[..., truth.labels]
    hit = ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
    miss = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
    apart = (boxes[..., :, None, :] - truth.boxes).abs().sum(-1)
    overlap = giou(boxes.reshape(-1, 4), truth.boxes).view(apart.shape)
    return COST_CLASS * (hit - miss) + COST_BOX * apart - COST_GIOU * overlap


def match(logits: Tensor, boxes: Tensor, truth: Truth, wanted: Tensor) -> Tensor:
    """Match queries of every layer with the objects `wanted` (indices into `truth`), one to one.

    Returns the object of each query, or -1, int64 (L, Q), for logits (L, Q, C), boxes (L, Q, 4).
    """
    layers, count = logits.shape[:2]
    target = torch.full((layers, count), -1, dtype=torch.int64, device=logits.device)
    if len(wanted) == 0 or count == 0:
        return target
    some = Truth(*(values[wanted] for values in truth))
    with torch.no_grad():
        cost = matching_cost(logits.detach().float(), boxes.detach().float(), some).cpu().numpy()
    for layer in range(layers):
        rows, columns = linear_sum_assignment(np.nan_to_num(cost[layer], nan=1e6, posinf=1e6))
        place = torch.from_numpy(rows).to(target.device)
        target[layer, place] = wanted[torch.from_numpy(columns).to(wanted.device)]
    return target


def set_losses(logits: Tensor, boxes: Tensor, truth: Truth, target: Tensor) -> Terms:
    """Return the losses of queries with their objects: target (L, Q), -1 = background.

    The focal loss runs over all queries and classes, the box losses over those with an object.
    """
    from torchvision.ops import sigmoid_focal_loss

    hits = target >= 0
    wanted = F.one_hot(truth.labels[target[hits]], logits.shape[-1]).to(logits.dtype)
    labels = torch.zeros_like(logits)
    labels[hits] = wanted
    focal = sigmoid_focal_loss(logits.float(), labels.float(), ALPHA, GAMMA, "sum")
    found, objects = boxes[hits], truth.boxes[target[hits]]
    l1 = (found - objects).abs().sum()
    return Terms(focal, l1, (1 - paired_giou(found, objects)).sum())


def inherit(identity: Tensor, truth: Truth) -> Tensor:
    """Return the object that each track (identity (n,)) is in this frame, or -1, int64 (n,)."""
    if len(truth.identity) == 0:
        return torch.full_like(identity, -1)
    same = identity[:, None] == truth.identity[None]
    return torch.where(same.any(1), same.int().argmax(1), -1)
