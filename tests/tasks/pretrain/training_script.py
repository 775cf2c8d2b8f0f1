"""A few steps of a framework on fixed clips, for a test that compares one process with two."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.runtime import Runtime, start
from mlkit.core.training import Run, fit
from mlkit.tasks.pretrain.config import BackboneOptions, MethodOptions
from mlkit.tasks.pretrain.frameworks import Length, Views, build


class Fixed:
    """Clips that are the same at every step, whichever process asks for them."""

    def __len__(self) -> int:
        return 16

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Views:
        clips = [
            torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(i))
            for i in indices.tolist()
        ]
        return Views(torch.stack(clips, 1), indices)


def run(folder: Path, runtime: Runtime) -> None:
    """Train each framework for four steps, in a folder of its own."""
    for method in ("moco", "byol", "simclr", "swav"):
        torch.manual_seed(0)
        options = MethodOptions(
            method=method,  # type: ignore[arg-type]
            head_norm=True,
            sync_norm=True,
            dim=8,
            hidden=16,
            queue=16,
            prototypes=6,
            teacher_momentum=0.9,
            freeze_prototypes=0,
        )
        objective = build(BackboneOptions(width=0.25), options, Length(4, 2, 8))
        training = TrainOptions(steps=4, batch_size=8, lr=0.05, weight_decay=0.0)
        fit(objective, Fixed(), training, runtime, method="pretrain", run=Run(folder / method))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), start(RunOptions(seed=5, device="cpu")))
    torch.distributed.destroy_process_group()
