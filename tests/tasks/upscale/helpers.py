from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlkit.tasks.upscale.checkpoint import Start
from mlkit.tasks.upscale.model import Network


def picture(height: int = 64, width: int = 72, seed: int = 0) -> Tensor:
    """Smooth colours with edges and fine stripes, float32 (3, H, W) in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    random = np.random.default_rng(seed)
    planes = []
    for _ in range(3):
        a, b, c = random.uniform(3, 9, 3)
        smooth = 0.5 + 0.2 * np.sin(x / a) * np.cos(y / b)
        planes.append(smooth + 0.2 * ((x + c * y).astype(int) % 23 > 11))
    return torch.from_numpy(np.clip(np.stack(planes), 0, 1)).float()


def network(width: int = 4, depth: int = 3, steps: int = 2, seed: int = 0) -> Network:
    return Network(width, depth, steps, 0.05, seed)


def begin(seed: int = 0, **settings: object) -> Start:
    return Start(network(seed=seed), **settings)  # type: ignore[arg-type]
