from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlkit.core.operators.base import Operator
from mlkit.tasks.denoise.activations import LinearSplines
from mlkit.tasks.denoise.checkpoint import Prior, save_prior
from mlkit.tasks.denoise.model import ConvexRidge, Ridge
from mlkit.tasks.denoise.reconstruction.phantom import shepp_logan
from mlkit.tasks.denoise.reconstruction.problem import Problem


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_model() -> ConvexRidge:
    """Differences along both axes, with soft-clip activations: close to a Huber TV."""
    model = ConvexRidge((2,), kernel_size=3)
    filters = torch.zeros(2, 1, 3, 3)
    filters[0, 0, 1, 1], filters[0, 0, 1, 2] = -1, 1
    filters[1, 0, 1, 1], filters[1, 0, 2, 1] = -1, 1
    knots = torch.linspace(-0.1, 0.1, 21)
    with torch.no_grad():
        model.filters[0].copy_(filters)
        assert model.coefficients is not None
        model.coefficients.copy_(knots.clamp(-0.02, 0.02).expand(2, -1))
    return model


def small_ridge() -> Ridge:
    with torch.no_grad():
        ridge = small_model().ridge()
    assert isinstance(ridge.activation, LinearSplines)
    return ridge


def prior_file(folder: Path) -> Path:
    path = folder / "prior.safetensors"
    save_prior(path, Prior(small_model(), 1, "descent", 25.0), {})
    return path


def problem(
    operator: Operator, truth: Tensor, noise: float = 0.02, positive: bool = True, seed: int = 0
) -> Problem:
    clean = operator(truth)
    real = random(*clean.shape, seed=seed)
    extra = torch.complex(real, random(*clean.shape, seed=seed + 1)) if clean.is_complex() else real
    data = clean + noise * extra
    numbers = clean[0].numel() * (2 if clean.is_complex() else 1)
    start = torch.zeros_like(truth)
    return Problem(operator, data, start, numbers, noise, positive, 1.0, operator.norm())


def phantom(size: int = 24) -> Tensor:
    return shepp_logan(size, size)


def half_turn(views: int) -> np.ndarray:
    return np.arange(views) * math.pi / views
