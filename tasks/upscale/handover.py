"""Handing the method over: a demo with pictures, export, and loading for use from Python."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.export import export_network
from ...core.metrics import psnr
from ...core.options import BatchOptions, RunOptions
from ...core.pictures import read_picture, write_picture
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result, Table
from .apply import upscale
from .checkpoint import WEIGHTS, Start, load_start, to_device
from .config import UpscaleConfig
from .degradation import Degradation
from .kernels import gaussian

SAMPLE = WEIGHTS / "sample.png"
VARIANCE = 2.0
EXAMPLE = 64  # pixels of the image that an export is compared on


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Make a photograph small with a blur, enlarge it again by us and by others, show both."""
    small, plot = out / "small.png", out / "strip.png"
    sharp = read_picture(SAMPLE)
    if not (out / "mzsr.png").exists() or overwrite:
        blur = Degradation(gaussian(VARIANCE, VARIANCE, 0).float(), 2, "direct")
        write_picture(small, sharp.with_planes(blur(sharp.planes[None])[0]))
    rows, metrics = [], {}
    for method in ("bicubic", "ibp", "mzsr"):
        config = UpscaleConfig(
            inputs=(small,),
            out=out / f"{method}.png",
            kernel=f"gaussian:{VARIANCE:g}",
            sampling="direct",
            method=method,
            plot=plot if method == "mzsr" else None,
        )
        result = upscale(config, BatchOptions(overwrite=overwrite), run_options, progress)
        (found,) = result.pictures.values()
        metrics[method] = psnr(found.planes, sharp.planes)
        rows.append((method, f"{metrics[method]:.2f}"))
    shown = Result(
        inputs={"image": str(small)},
        outputs={**result.outputs, "report": str(out / "report.html")},
        metrics={"psnr": metrics},
        tables=(Table("Enlarged by 2", ("method", "PSNR dB"), rows), *result.tables),
    )
    write_report(
        out / "report.html",
        "mlkit demo upscale",
        shown,
        settings=config.to_dict(),
        command="mlkit demo upscale",
        pictures={"a detail: input, bicubic, after 1, 5 and 10 steps": plot},
    )
    return shown


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Write the network as it starts, without adaptation, as ONNX or torch.export program."""
    start = load_start(file)
    example = torch.rand(2, 3, EXAMPLE, EXAMPLE, generator=torch.Generator().manual_seed(0))
    difference = export_network(start.network, example, out, overwrite)
    return Result(
        inputs={"file": str(file)},
        outputs={"model": str(out)},
        metrics={"difference": difference},
        notes=(
            f"Takes images enlarged by bicubic interpolation to {EXAMPLE}x{EXAMPLE} pixels; "
            "the adaptation stays in mlkit.",
        ),
    )


def load(path: str | Path, device: str = "cpu") -> Start:
    """Return the weights in a file. Raises `CheckpointError` when it holds others."""
    return to_device(load_start(Path(path)), torch.device(device))
