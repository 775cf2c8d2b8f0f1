"""The objective: cross entropy of every pixel, and the penalty of the paper's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...core.training import Objective
from .model import Segmenter


class Referring(Objective):
    """Mean over pixels of the binary cross entropy with logits, plus L2 on two weights.

    The official loss is the sum over pixels; with the mean, the penalty is divided by their
    number, which is the same problem. Its filter of names catches only the weights of the 1 x 1
    convolution of the top level and of the score, and so does this.
    """

    model: Segmenter

    def __init__(self, model: Segmenter, l2: float) -> None:
        super().__init__()
        self.model, self.l2 = model, l2

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses and the mean IoU of a batch (see `data.Samples.fetch`)."""
        model, masks = self.model, batch["masks"]
        features = batch.get("features")
        if features is None:
            features = model.features(batch["images"].float() / 255)
        else:
            features = [level.float() for level in features]
        logits = model.enlarge(model.refer(features, batch["tokens"])).float()
        entropy = binary_cross_entropy_with_logits(logits, masks.to(logits.dtype))
        penalty = 0.5 * self.l2 * penalised(model) / masks[0].numel()
        return {"loss": entropy + penalty, "entropy": entropy, "iou": batch_iou(logits, masks)}

    def rates(self) -> Mapping[str, float]:
        """Return the doubled rate of the biases of the two hand-made convolutions."""
        return {"model.top.bias": 2.0, "model.score.bias": 2.0}


def penalised(model: Segmenter) -> Tensor:
    """Return the squared norm of the weights that are penalised."""
    return model.top.weight.square().sum() + model.score.weight.square().sum()


@torch.no_grad()
def batch_iou(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean IoU of masks (B, H, W) and logits above 0; 1 where both are empty."""
    found, truth = (logits > 0).flatten(1), (masks > 0).flatten(1)
    inside, joined = (found & truth).sum(1), (found | truth).sum(1)
    return torch.where(joined > 0, inside / joined.clamp_min(1), 1.0).mean()
