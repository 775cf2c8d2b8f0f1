from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlkit.core.options import RunOptions
from mlkit.tasks.pretrain.config import BackboneOptions, MethodOptions
from mlkit.tasks.pretrain.frameworks import Framework, Length, Views, build

RUN = RunOptions(device="cpu", seed=3)
SMALL = BackboneOptions(backbone="tiny", width=0.25)


def write_videos(folder: Path, count: int = 8, length: int = 12, side: int = 24) -> Path:
    """Write videos of one noisy colour each, and labels.csv (path, label, place)."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["path,label,place"]
    for i in range(count):
        colour = random.integers(40, 200, 3)
        frames = colour + random.integers(-30, 30, (length, side, side + 8, 3))
        np.save(folder / f"{i}.npy", frames.clip(0, 255).astype(np.uint8))
        rows.append(f"{i}.npy,{'even' if i % 2 == 0 else 'odd'},{i % 4}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def framework(method: str, batch: int = 4, **options: Any) -> Framework:
    """Return a small framework whose two-layer heads have norms unless said otherwise."""
    values = {"teacher_momentum": 0.9, "head_norm": True, "sync_norm": False, "dim": 8,
              "hidden": 16, "queue": 2 * batch, "prototypes": 6, **options}  # fmt: skip
    torch.manual_seed(0)
    return build(SMALL, MethodOptions(method=method, **values), Length(10, 5, batch))


def views(clips: int = 2, videos: int = 4, seed: int = 0, side: int = 16) -> Views:
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, videos, 3, 2, side, side)
    return Views(torch.randn(shape, generator=generator), torch.arange(videos))
