"""Total variation as a penalty: the baseline of every reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tv import differences, differences_adjoint, total_variation


class TotalVariation:
    """The isotropic total variation weight * sum |D x|, with or without x >= 0.

    `prox` solves min 0.5 ||x - v||^2 + step * weight * TV(x) by accelerated projection of its
    dual (Beck, Teboulle, IEEE Trans. Image Process. 2009). The dual of one call is where the next
    one begins: inside of an outer solver, whose points hardly move, few inner steps suffice.
    """

    def __init__(self, weight: float, positive: bool, inner: int = 20) -> None:
        self.weight, self.positive, self.inner = weight, positive, inner
        self._dual: Tensor | None = None

    lipschitz = 0.0

    def gradient(self, image: Tensor) -> Tensor:
        """Return 0: there is no smooth part."""
        return torch.zeros_like(image)

    def energy(self, image: Tensor) -> float:
        """Return weight * TV(x) of a batch, summed in float64."""
        return self.weight * float(total_variation(image).sum())

    def prox(self, image: Tensor, step: float = 1.0) -> Tensor:
        """Return the proximal point of images (B, 1, H, W)."""
        strength = self.weight * step
        if strength == 0:
            return self.primal(image)
        dual = self._dual
        if dual is None or dual.shape[2:] != image.shape[2:] or len(dual) != len(image):
            dual = torch.zeros_like(image).repeat(1, 2, 1, 1)
        ahead, t = dual, 1.0
        for _ in range(self.inner):
            x = self.primal(image - strength * differences_adjoint(ahead))
            new = ahead + differences(x) / (8 * strength)
            new = new / new.square().sum(1, keepdim=True).sqrt().clamp_min(1)
            following = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = new + ((t - 1) / following) * (new - dual)
            dual, t = new, following
        self._dual = dual
        return self.primal(image - strength * differences_adjoint(dual))

    def primal(self, image: Tensor) -> Tensor:
        """Return the nearest allowed image."""
        return image.clamp_min(0) if self.positive else image
