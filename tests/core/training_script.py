"""A small training run in a process of its own, for tests that kill it or start two of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.runtime import start
from mlkit.core.training import Objective, Run, fit


class Regression(Objective):
    """Least squares through a small network with dropout, which draws global random numbers."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        layers = [nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, targets = batch
        error = F.mse_loss(self.model(inputs)[:, 0], targets)
        return {"loss": error, "rmse": error.detach().sqrt()}


class Points:
    """Noisy samples of a function; the noise is augmentation and differs every time."""

    def __init__(self, count: int = 96, noise: float = 0.1) -> None:
        self.inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(3))
        self.targets = self.inputs.square().sum(1).sqrt()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.inputs)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(indices), 6, generator=generator) * self.noise
        return self.inputs[indices] + noise, self.targets[indices]


def run(folder: Path, resume: bool = False, **settings: Any) -> nn.Module:
    """Train for 60 steps and return the network."""
    dropout, noise = settings.pop("dropout", 0.2), settings.pop("noise", 0.1)
    workers = settings.pop("workers", 0)
    runtime = start(RunOptions(seed=5, device="cpu", workers=workers))
    objective = Regression(dropout)
    options = TrainOptions(
        **{"steps": 60, "batch_size": 16, "lr": 0.05, "warmup": 5, "ema": 0.9, **settings}
    )
    fit(
        objective,
        Points(noise=noise),
        options,
        runtime,
        method="prune",
        run=Run(folder, resume),
    )
    if runtime.is_main:
        torch.save(objective.model.state_dict(), folder / "final.pt")
    return objective.model


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2] == "plain":  # nothing that differs between one process and two
        run(Path(sys.argv[1]), dropout=0.0, noise=0.0, ema=0.0)
    else:
        run(Path(sys.argv[1]), resume=sys.argv[2] == "resume", save_every=3)
