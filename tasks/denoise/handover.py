"""Handing the method over: a demo with pictures, and loading for use from Python."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.errors import UsageError
from ...core.options import BatchOptions, RunOptions
from ...core.pictures import read_picture, write_picture
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from ...core.runtime import stream
from .apply import denoise
from .checkpoint import WEIGHTS, Prior, load_prior
from .config import DenoiseConfig

SAMPLE = WEIGHTS / "sample.png"
SIGMA = 25.0


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Add noise to a photograph, remove it with a certificate, and leave a report in `out`."""
    noisy, strip = out / "noisy.png", out / "strip.png"
    original = read_picture(SAMPLE)
    noise = torch.randn(original.planes.shape, generator=stream(run_options.seed, 6))
    batch = BatchOptions(overwrite=overwrite)
    config = DenoiseConfig(inputs=(noisy,), out=out / "clean.png", certify=True, plot=strip)
    if not (out / "clean.png").exists() or overwrite:
        write_picture(noisy, original.with_planes(original.planes + SIGMA / 255 * noise))
    result = denoise(config, batch, run_options, progress)
    write_report(
        out / "report.html",
        "mlkit demo denoise",
        result,
        settings=config.to_dict(),
        command="mlkit demo denoise",
        pictures={"noisy, clean, what was removed": strip},
    )
    return result


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Raise `UsageError`: what denoises is a minimisation, not a network."""
    raise UsageError(
        f"{file} holds a prior; denoising with it is an iteration that cannot be exported",
        "use it from Python: mlkit.load(FILE).model.ridge().gradient(x)",
    )


def load(path: str | Path, device: str = "cpu") -> Prior:
    """Return the prior in a file. Raises `CheckpointError` when it is no prior."""
    prior = load_prior(Path(path))
    prior.model.to(device)
    return prior
