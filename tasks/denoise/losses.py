"""What the t-step denoiser is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.training import Objective
from .activations import LinearSplines
from .model import ConvexRidge, StepRule

PATCH_AREA = 1600  # pixels of the patches for which the weight of TV2 was chosen


class DenoisingObjective(Objective):
    """Absolute error of the t-step denoiser plus the sparsity penalty of the splines.

    loss = sum |x_t - x| / B * (1600 / (H*W)) + tv2 * sigma * TV2, with `sigma` in grey levels.
    """

    model: ConvexRidge

    def __init__(
        self, model: ConvexRidge, steps: int, sigma: float, tv2: float, rule: StepRule
    ) -> None:
        super().__init__()
        self.model = model
        self.steps, self.rule = steps, rule
        self.weight = tv2 * sigma
        model.strength.requires_grad_(steps > 1)  # it cancels in the first step

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the losses on noisy and clean patches, both (B, 1, H, W)."""
        noisy, clean = batch
        ridge = self.model.ridge()
        result = self.model.denoise(noisy, self.steps, self.rule, ridge)
        area = clean.shape[-2] * clean.shape[-1]
        error = (result - clean).abs().sum() / len(clean) * (PATCH_AREA / area)
        roughness = torch.zeros_like(error)
        if isinstance(ridge.activation, LinearSplines):
            roughness = ridge.activation.bend().sum()
        return {"loss": error + self.weight * roughness, "error": error, "tv2": roughness}

    def rates(self) -> dict[str, float]:
        """Return each parameter's learning rate relative to that of the filters."""
        return {"coefficients": 0.05, "strength": 50.0, "scale": 50.0, "bias": 1.0}
