"""The options of `mlkit data sinogram` and `mlkit data kspace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ....core.config import Flag
from ....core.options import OUTPUT, OverwriteOption
from .config import BeamOptions, Sized


class Simulation(Sized, OverwriteOption):
    """What the simulated data sets have in common."""

    image: Annotated[
        str,
        Flag(argument=True, metavar="IMAGE|phantom"),
        Field(description="A picture or array to measure, or 'phantom' for Shepp-Logan's head."),
    ]
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Folder.")
    ] = Path("scan")


class SinogramConfig(Simulation, BeamOptions):
    """Options of `mlkit data sinogram`."""

    noise: Annotated[
        float,
        Flag("--noise"),
        Field(ge=0, description="Standard deviation, as a part of the largest line integral."),
    ] = 0.005

    views: Annotated[int, Flag("--views"), Field(gt=0, description="Number of angles.")] = 120
    span: Annotated[
        float,
        Flag("--span"),
        Field(gt=0, le=360, description="Degrees that they cover; fan beams need 360."),
    ] = 180.0
    bins: Annotated[
        int | None,
        Flag("--bins"),
        Field(gt=0, description="Detector bins; default: enough for the whole image."),
    ] = None


class KspaceConfig(Simulation):
    """Options of `mlkit data kspace`."""

    noise: Annotated[
        float,
        Flag("--noise"),
        Field(
            ge=0,
            description="Standard deviation of real and imaginary parts, as a part of the "
            "brightest pixel.",
        ),
    ] = 0.002

    coils: Annotated[
        int, Flag("--coils"), Field(gt=0, le=128, description="Receiver coils around the image.")
    ] = 1
    acceleration: Annotated[
        float, Flag("--acceleration"), Field(ge=1, description="One of how many columns is kept.")
    ] = 4.0
    central: Annotated[
        float,
        Flag("--central"),
        Field(gt=0, le=1, description="Part of the columns, in the middle, that is always kept."),
    ] = 0.08
