"""Handing a model over: the demo that shows the method, and the export to other run times."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.results import Result
from ...core.zoo import import_factory
from .apply import PruneResult, prune
from .backbone import locate
from .checkpoint import load
from .config import PruneConfig


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> PruneResult:
    """Prune the embedded Fashion-MNIST network, with all pictures and a report in `out`."""
    config = PruneConfig(
        sparsity=0.5, out=out / "pruned.safetensors", run=out, overwrite=overwrite, data_free=True
    )
    return prune(config, run_options, progress, "mlkit demo prune")


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export a classifier that was pruned or trained here. Raises `UsageError` for detectors."""
    model, recipe = load(
        file, factory=import_factory(factory) if factory else None, with_recipe=True
    )
    if locate(model)[1]:
        raise UsageError(
            f"{recipe.name} is a detector or a segmenter; only classifiers can be exported",
            "open it with mlkit.load and export it with your own post-processing",
        )
    spec = recipe.input
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, spec.channels, spec.size, spec.size, generator=generator)
    difference = export_network(model, spec.normalise(example), out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(f"agrees with the original to {difference:.1e} of the largest output",),
    )
