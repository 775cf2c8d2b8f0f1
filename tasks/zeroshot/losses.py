"""What training minimises: how far predicted rows are from the rows of seen classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.training import Objective
from .links import Plan
from .model import RowNetwork


def row_loss(rows: Tensor, targets: Tensor) -> Tensor:
    """Return sum |y - t|^2 / (2 S) of unit rows (S, P): the mean of 1 - cos."""
    return (rows - targets).square().sum() / (2 * len(rows))


class Regression(Objective):
    """The row loss of all seen classes at once, with Adam's coupled decay as part of the loss.

    `decay` / 2 |theta|^2 over all parameters has the gradient that the official optimiser adds:
    with AdamW's own decay at 0 the steps are the same.
    """

    def __init__(
        self, model: RowNetwork, vectors: Tensor, plan: Plan, targets: Tensor, decay: float
    ) -> None:
        super().__init__()
        self.model: RowNetwork = model
        self.decay = decay
        self.plan = plan
        # Not part of the state: they come from the data, and are large.
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("targets", targets, persistent=False)

    vectors: Tensor
    targets: Tensor

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Return the losses; `batch` says nothing, every step sees all seen classes."""
        fit = row_loss(self.model(self.vectors, self.plan), self.targets)
        size = torch.stack([p.square().sum() for p in self.model.parameters()]).sum()
        return {"loss": fit + 0.5 * self.decay * size, "rows": fit}
