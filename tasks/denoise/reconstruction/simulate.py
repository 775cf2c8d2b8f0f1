"""Measurements that never took place: sinograms and k-space of an image, with noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....core.arrays import write_array
from ....core.errors import DataError, UsageError
from ....core.files import check_writable, write_text
from ....core.operators.fourier import MaskedFourier
from ....core.options import RunOptions
from ....core.results import Result, Table
from ....core.runtime import start, stream
from . import ct
from .config import parse_size
from .phantom import shepp_logan
from .pictures import open_picture
from .simulation import KspaceConfig, Simulation, SinogramConfig

PHANTOM_SIZE = "256"


def simulate_sinogram(config: SinogramConfig, run_options: RunOptions | None = None) -> Result:
    """Write sinogram.npy, angles.txt (degrees) and image.npy into a folder.

    Raises `UsageError` for impossible geometries, `DataError` for unusable images.
    """
    runtime = start(run_options or RunOptions())
    image = read_image(config)
    names = ("sinogram.npy", "angles.txt", "image.npy")
    _check(config, names)
    degrees = np.arange(config.views) * config.span / config.views
    pixel = config.pixel or ct.default_pixel(config)
    bins = config.bins or _enough_bins(config, image, pixel)
    beam = ct.make_beam(config, np.deg2rad(degrees), bins)
    operator = ct.make_tomograph(beam, (image.shape[2], image.shape[3]), pixel)
    clean = operator(image)
    deviation = config.noise * float(clean.max())
    data = clean + deviation * torch.randn(clean.shape, generator=stream(runtime.seed, 5))
    write_array(config.out / "sinogram.npy", data[0].numpy())
    write_text(config.out / "angles.txt", "".join(f"{angle:.10g}\n" for angle in degrees))
    write_array(config.out / "image.npy", image[0, 0].numpy())
    size = "x".join(str(n) for n in image.shape[2:])
    options = [f"--angles {config.out / 'angles.txt'}", f"--size {size}", f"--pixel {pixel:g}"]
    options += _geometry(config)
    return _result(
        config,
        names,
        {"views": config.views, "bins": bins, "pixel": pixel, "noise": deviation},
        f"mlkit reconstruct ct {config.out / 'sinogram.npy'} {' '.join(options)} "
        f"--reference {config.out / 'image.npy'}",
    )


def simulate_kspace(config: KspaceConfig, run_options: RunOptions | None = None) -> Result:
    """Write kspace.npy, mask.npy, image.npy and, for several coils, coils.npy into a folder."""
    runtime = start(run_options or RunOptions())
    image = read_image(config)
    shape = (image.shape[2], image.shape[3])
    several = config.coils > 1
    names = ("kspace.npy", "mask.npy", "image.npy", *(("coils.npy",) if several else ()))
    _check(config, names)
    mask = random_columns(shape[1], config.acceleration, config.central, runtime.seed)
    coils = coil_maps(config.coils, shape) if several else None
    operator = MaskedFourier(mask, shape, coils)
    clean = operator(image)
    deviation = config.noise * float(image.max())
    parts = torch.randn(*clean.shape, 2, generator=stream(runtime.seed, 6))
    data = clean + deviation * torch.view_as_complex(parts) * operator.get_buffer("mask")
    write_array(config.out / "kspace.npy", (data[0] if several else data[0, 0]).numpy())
    write_array(config.out / "mask.npy", mask.numpy())
    write_array(config.out / "image.npy", image[0, 0].numpy())
    if coils is not None:
        write_array(config.out / "coils.npy", coils.numpy())
    maps = f" --coils {config.out / 'coils.npy'}" if several else ""
    return _result(
        config,
        names,
        {"coils": config.coils, "columns": int(mask.sum()), "noise": deviation},
        f"mlkit reconstruct mri {config.out / 'kspace.npy'} --mask {config.out / 'mask.npy'}"
        f"{maps} --reference {config.out / 'image.npy'}",
    )


def read_image(config: Simulation) -> Tensor:
    """Return the image (1, 1, H, W) to measure. Raises `DataError` for colour or another size."""
    if config.image == "phantom":
        size = parse_size(config.size or PHANTOM_SIZE)
        assert size is not None
        return shepp_logan(*size)
    planes = open_picture(Path(config.image)).planes
    if len(planes) != 1 and not bool((planes == planes[:1]).all()):
        raise DataError(f"{config.image} is in colour", "give a grey image")
    if config.size is not None and parse_size(config.size) != tuple(planes.shape[1:]):
        found = "x".join(str(n) for n in planes.shape[1:])
        raise UsageError(f"--size {config.size}: {config.image} has {found} pixels")
    return planes[None, :1]


def random_columns(width: int, acceleration: float, central: float, seed: int) -> Tensor:
    """Return a mask (width,): all central columns, of the others so many that 1/acceleration stay.

    The usual random Cartesian mask (fastMRI). Raises `UsageError` when the centre alone is more.
    """
    low = round(width * central)
    chance = (width / acceleration - low) / max(1, width - low)
    if chance < 0:
        raise UsageError(
            f"--central {central:g} alone is more than one of {acceleration:g} columns",
            "lower --central or --acceleration",
        )
    mask = torch.rand(width, generator=stream(seed, 7)) < chance
    begin = (width - low + 1) // 2
    mask[begin : begin + low] = True
    return mask.float()


def coil_maps(count: int, shape: tuple[int, int]) -> Tensor:
    """Return smooth sensitivities (count, H, W) of coils on a ring, with sum |S|^2 = 1.

    Each falls off like a Gaussian around a point outside of the image, with a slowly turning
    phase.
    """
    height, width = shape
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    maps = []
    for turn in range(count):
        angle = 2 * math.pi * turn / count
        u, v = 1.2 * math.cos(angle), 1.2 * math.sin(angle)
        magnitude = torch.exp(-((x - u) ** 2 + (y - v) ** 2) / 1.6)
        maps.append(torch.polar(magnitude, angle + 0.8 * (u * x + v * y)))
    stack = torch.stack(maps)
    return stack / stack.abs().square().sum(0).sqrt()


def _enough_bins(config: SinogramConfig, image: Tensor, pixel: float) -> int:
    """Return how many bins see the whole image, corners included."""
    reach = pixel * math.hypot(*image.shape[2:]) / 2
    if config.geometry == "fan" and config.source_distance and config.detector_distance:
        if config.source_distance <= reach:
            raise UsageError(
                f"--source-distance {config.source_distance:g} lies inside the image, which "
                f"reaches {reach:g} from the axis"
            )
        gamma = math.asin(reach / config.source_distance)
        half = config.detector_distance * (math.tan(gamma) if config.detector == "flat" else gamma)
    else:
        half = reach
    return 2 * math.ceil(half / config.bin_width) + 1


def _geometry(config: SinogramConfig) -> list[str]:
    """Return the options that describe a geometry that is not the default one."""
    options = [f"--bin-width {config.bin_width:g}"] if config.bin_width != 1 else []
    if config.centre is not None:
        options.append(f"--centre {config.centre:g}")
    if config.geometry == "fan":
        options += [
            "--geometry fan",
            f"--source-distance {config.source_distance:g}",
            f"--detector-distance {config.detector_distance:g}",
            f"--detector {config.detector}",
        ]
    return options


def _check(config: Simulation, names: tuple[str, ...]) -> None:
    for name in names:
        check_writable(config.out / name, config.overwrite)


def _result(
    config: Simulation, names: tuple[str, ...], metrics: dict[str, float], following: str
) -> Result:
    rows = [(name, f"{value:g}") for name, value in metrics.items()]
    return Result(
        inputs={"image": config.image},
        outputs={Path(name).stem: str(config.out / name) for name in names},
        metrics=metrics,
        tables=(Table("Simulated scan", ("what", "value"), rows),),
        notes=(f"Next: {following}",),
    )
