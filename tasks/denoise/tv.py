"""Total variation, the baseline: min_x 0.5 * ||x - y||^2 + weight * TV(x).

TV is isotropic, with forward differences and no difference across the frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.progress import Progress, Silent
from ...core.solvers import Solution

CHECK_EVERY = 10
# Weights (images in [0, 1]) by noise in grey levels, best on 24 training images of BSD400:
# python -m tests.experiments denoise-tv
TUNED = ((5.0, 0.00858), (15.0, 0.0377), (25.0, 0.0728), (50.0, 0.169))


def differences(x: Tensor) -> Tensor:
    """Return forward differences (B, 2, H, W) of images (B, 1, H, W), zero at the far frame."""
    down = torch.nn.functional.pad(x.diff(dim=2), (0, 0, 0, 1))
    right = torch.nn.functional.pad(x.diff(dim=3), (0, 1, 0, 0))
    return torch.cat((down, right), 1)


def differences_adjoint(p: Tensor) -> Tensor:
    """Return the exact adjoint of `differences`."""
    down, right = p[:, :1, :-1, :], p[:, 1:, :, :-1]
    pad = torch.nn.functional.pad
    return (
        pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1)) + pad(right, (1, 0)) - pad(right, (0, 1))
    )


def total_variation(x: Tensor) -> Tensor:
    """Return TV of each image (B,), in float64."""
    return differences(x).square().sum(1).sqrt().sum((1, 2), dtype=torch.float64)


def denoise_tv(
    noisy: Tensor,
    weight: float,
    *,
    tolerance: float = 1e-4,
    iterations: int = 1000,
    progress: Progress | None = None,
    start: Tensor | None = None,
) -> tuple[Solution, Tensor]:
    """Return the solution and the dual variable (B, 2, H, W), a warm `start` for the next time.

    Accelerated gradient on the dual (Beck, Teboulle 2009). It has converged when the duality
    gap proves ||x - x*|| <= sqrt(2 * gap) <= `tolerance` * ||x||.
    """
    size = (noisy.shape[0], 2, *noisy.shape[2:])
    p = q = noisy.new_zeros(size) if start is None else start
    t, k, x = 1.0, 0, noisy
    change = bound = math.inf
    converged = False
    with (progress or Silent()).task("total variation", iterations) as task:
        for k in range(1, iterations + 1):
            step = q + differences(noisy - weight * differences_adjoint(q)) / (8 * weight)
            new = step / step.square().sum(1, keepdim=True).sqrt().clamp(min=1)
            before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
            q, p = torch.lerp(p, new, 1 + (before - 1) / t), new
            if k % CHECK_EVERY == 0 or k == iterations:
                last, x = x, noisy - weight * differences_adjoint(p)
                change = float((x - last).norm() / x.norm())
                bound = math.sqrt(2 * max(0.0, _gap(x, p, weight)))
                converged = bound <= tolerance * float(x.norm())
            task.advance()
            if converged:
                break
    return Solution(x, k, converged, change, bound, bound), p


def _gap(x: Tensor, p: Tensor, weight: float) -> float:
    """Return the duality gap of the primal point x = y - weight * D^T p."""
    inner = (differences(x) * p).sum(dtype=torch.float64)
    return weight * float(total_variation(x).sum() - inner)


def tuned_weight(sigma: float) -> float:
    """Return the weight for noise of `sigma` grey levels, interpolated between tuned ones."""
    from .tuning import interpolate

    return interpolate(TUNED, sigma)
