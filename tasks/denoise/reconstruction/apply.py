"""From files of measurements to images: the jobs of `mlkit reconstruct`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import DataError, UsageError
from ....core.files import check_writable
from ....core.options import RunOptions
from ....core.pictures import Picture
from ....core.progress import Progress, Silent
from ....core.results import Result
from ....core.runtime import Runtime, memory_errors, start
from ..checkpoint import ALL_ROUND, embedded_prior, load_prior
from . import ct, mri, pictures
from .config import CtConfig, MatrixConfig, MriConfig, PictureConfig, SolveOptions
from .output import check_delivery, deliver
from .problem import Problem, Scan
from .solve import Reconstructor

JobConfig = CtConfig | MriConfig | PictureConfig | MatrixConfig

QUIET = 1e-4  # noise is taken as at least this part of the data's root mean square
BRIGHT = 0.999  # quantile of the classical image that counts as its intensity
ADVICE = "use fewer pixels, or --device cpu"


def reconstruct_ct(
    config: CtConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Return images from X-ray line integrals; values are per unit of length.

    Raises `DataError` for unusable data and where a run does not converge, `UsageError` for
    impossible geometries, `CheckpointError` for weights that are none.
    """
    check_output(config.out, config)
    runtime = start(run_options or RunOptions())
    scan = ct.read_ct(config)
    return _finish("ct", config, str(config.sinogram), [scan], config.positive, runtime, progress)


def reconstruct_mri(
    config: MriConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Return images from undersampled k-space, in the units of the samples; see `reconstruct_ct`.

    The prior is for real images: phase belongs into the sensitivities.
    """
    check_output(config.out, config)
    runtime = start(run_options or RunOptions())
    scans = mri.read_mri(config, progress or Silent())
    return _finish("mri", config, str(config.kspace), scans, config.positive, runtime, progress)


def reconstruct_image(
    config: PictureConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Return a picture without its blur, with its missing pixels, or larger; see `reconstruct_ct`.

    Colours are reconstructed one after the other.
    """
    check_output(config.out, config)
    runtime = start(run_options or RunOptions())
    scan, picture, margin = pictures.read_picture(config)
    return _finish(
        "image",
        config,
        str(config.image),
        [scan],
        config.positive,
        runtime,
        progress,
        picture,
        margin,
    )


def reconstruct_matrix(
    config: MatrixConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Return the image that an explicit matrix turned into the data; see `reconstruct_ct`."""
    check_output(config.out, config)
    runtime = start(run_options or RunOptions())
    scan = pictures.read_matrix(config)
    return _finish("matrix", config, str(config.data), [scan], config.positive, runtime, progress)


def check_output(out: Path, config: SolveOptions) -> None:
    """Fail before work starts when the output could not be written."""
    if str(out) != "-":
        check_writable(out, config.overwrite)
        if out.suffix.lower() not in (".npy", ".tif", ".tiff", ".png"):
            raise UsageError(f"--out {out}: must end in .npy, .tif or .png")
    if config.plot is not None:
        check_writable(config.plot, config.overwrite)


def _finish(
    instrument: str,
    config: JobConfig,
    source: str,
    scans: Sequence[Scan],
    positive: bool,
    runtime: Runtime,
    progress: Progress | None,
    picture: Picture | None = None,
    margin: int = 0,
) -> Result:
    """Solve all items of all scans, and write what was asked for."""
    progress = progress or Silent()
    pictured = picture is not None
    classical = torch.cat([scan.classical for scan in scans])
    if margin:
        classical = classical[..., margin:-margin, margin:-margin]
    truth = check_delivery(config, source, tuple(classical.shape), pictured)
    begin = time.monotonic()
    with memory_errors(ADVICE):
        images, reports = solve_all(instrument, config, scans, positive, runtime, progress)
    seconds = time.monotonic() - begin
    if margin:
        images = images[..., margin:-margin, margin:-margin]
    return deliver(config, source, images, classical, truth, reports, seconds, picture)


def solve_all(
    instrument: str,
    config: JobConfig,
    scans: Sequence[Scan],
    positive: bool,
    runtime: Runtime,
    progress: Progress,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the images (N, 1, H, W) on the CPU, and a report of each."""
    if config.method in ("fbp", "zero-filled"):
        classical = torch.cat([scan.classical for scan in scans])
        return classical, [{"method": config.method} for _ in classical]
    ridge = None
    if config.method == "crr":
        with torch.no_grad():
            prior = load_prior(config.weights) if config.weights else embedded_prior(ALL_ROUND)
            ridge = prior.model.ridge().to(runtime.device)
    pictured = instrument == "image"
    reconstructor = Reconstructor(instrument, ridge, config)
    images: list[Tensor] = []
    reports: list[dict[str, Any]] = []
    for scan in scans:
        operator = scan.operator.to(runtime.device)
        norm = operator.norm()
        if not norm:
            raise DataError("the measurement sees nothing: its operator is zero everywhere")
        for data, classical in zip(scan.data, scan.classical, strict=True):
            problem = Problem(
                operator,
                data[None].to(runtime.device),
                classical[None].to(runtime.device),
                scan.numbers,
                noise_level(config, scan, data, pictured),
                positive,
                intensity(config, classical, pictured),
                norm,
            )
            image, report = reconstructor.reconstruct(problem, progress)
            images.append(image.cpu())
            reports.append({"method": config.method, **report})
    return torch.cat(images), reports


def noise_level(config: SolveOptions, scan: Scan, data: Tensor, pictured: bool) -> float:
    """Return the deviation of the noise: given, estimated, or assumed."""
    if config.noise is not None:
        return config.noise / 255 if pictured else config.noise
    size = float(data.abs().square().mean().sqrt())
    if math.isnan(scan.noise):
        return pictures.LOUD * size
    return max(scan.noise, QUIET * size)


def intensity(config: SolveOptions, classical: Tensor, pictured: bool) -> float:
    """Return the value that the prior takes as white. Raises `DataError` for a dark image."""
    if config.intensity is not None:
        return config.intensity
    if pictured:
        return 1.0
    value = float(np.quantile(classical.numpy(), BRIGHT))
    if not value > 0:
        raise DataError(
            f"the classical reconstruction has no positive values (its {BRIGHT:.1%} quantile is "
            f"{value:g})",
            "check the data, or pass --intensity VALUE",
        )
    return value
