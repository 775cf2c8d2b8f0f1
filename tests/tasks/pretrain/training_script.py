"""A few steps of a framework on fixed clips, for a test that compares one process with two."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.runtime import start
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    runtime = start(RunOptions(seed=5, device="cpu"))
    torch.manual_seed(0)
    options = MethodOptions(
        method=sys.argv[2],  # type: ignore[arg-type]
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
    fit(objective, Fixed(), training, runtime, method="pretrain", run=Run(Path(sys.argv[1])))
    if runtime.world_size > 1:
        torch.distributed.destroy_process_group()
