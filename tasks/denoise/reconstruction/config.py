"""The options of `mlkit reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ....core.config import TUNING, Config, Flag
from ....core.options import MODEL, OUTPUT, OverwriteOption

GEOMETRY = "Geometry"
AUTO, DISCREPANCY = "auto", "discrepancy"


class SolveOptions(OverwriteOption):
    """What all reconstructions have in common: the prior's strength, when to stop, what to show."""

    strength: Annotated[
        str,
        Flag("--lambda", metavar="auto|discrepancy|NUMBER"),
        Field(
            description="Weight of the prior against the normalised data term: from the noise "
            "level, by the discrepancy principle (several solves), or a number."
        ),
    ] = AUTO
    noise: Annotated[
        float | None,
        Flag("--noise", metavar="STD"),
        Field(
            gt=0,
            description="Standard deviation of the noise, in units of the data (grey levels of "
            "255 for pictures); default: estimated.",
        ),
    ] = None
    certify: Annotated[
        bool,
        Flag("--certify"),
        Field(description="Check and report convexity, descent, and the distance to the optimum."),
    ] = False
    best_effort: Annotated[
        bool,
        Flag("--best-effort"),
        Field(description="Keep a result that did not reach --tol; else this is an error."),
    ] = False
    reference: Annotated[
        Path | None,
        Flag("--reference", metavar="FILE"),
        Field(description="The true image, to report PSNR and SSIM."),
    ] = None
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="A prior from 'mlkit train denoise'; default: the embedded one."),
    ] = None
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Picture of the classical reconstruction beside the new one."),
    ] = None
    window: Annotated[
        str | None,
        Flag("--window", panel=OUTPUT, metavar="LOW,HIGH"),
        Field(description="Values shown black and white in pictures; default: 0 to the maximum."),
    ] = None
    mu: Annotated[
        float | None,
        Flag("--mu", panel=TUNING),
        Field(gt=0, description="Scale inside of the prior; larger is sharper and slower."),
    ] = None
    tol: Annotated[
        float,
        Flag("--tol", panel=TUNING),
        Field(gt=0, lt=1, description="Relative change of the image at which to stop."),
    ] = 1e-5
    iterations: Annotated[
        int, Flag("--iterations", panel=TUNING), Field(gt=0, description="Give up after these.")
    ] = 2000
    intensity: Annotated[
        float | None,
        Flag("--intensity", panel=TUNING),
        Field(
            gt=0,
            description="Largest value to expect in the image: the prior sees image/value; "
            "default: from the classical reconstruction.",
        ),
    ] = None

    @field_validator("strength")
    @classmethod
    def _known_strength(cls, value: str) -> str:
        if value not in (AUTO, DISCREPANCY) and not _positive(value):
            raise ValueError(f"must be {AUTO}, {DISCREPANCY} or a positive number")
        return value

    @field_validator("window")
    @classmethod
    def _known_window(cls, value: str | None) -> str | None:
        if value is not None and parse_window(value) is None:
            raise ValueError("must be two numbers LOW,HIGH with LOW < HIGH")
        return value


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def parse_window(text: str) -> tuple[float, float] | None:
    """Return the two numbers of `--window`, None when there are no such two."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (low, high) if low < high else None


def parse_size(text: str) -> tuple[int, int] | None:
    """Return (height, width) of "256" or "256x192", None for anything else."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) < 2**15 for part in parts):
        return None
    return int(parts[0]), int(parts[-1])


class Sized(Config):
    """A config with an image size."""

    size: Annotated[
        str | None,
        Flag("--size", metavar="N|HxW"),
        Field(description="Pixels of the image."),
    ] = None

    @field_validator("size")
    @classmethod
    def _known_size(cls, value: str | None) -> str | None:
        if value is not None and parse_size(value) is None:
            raise ValueError("must be a number of pixels such as 256, or HEIGHTxWIDTH")
        return value


class Positive(Config):
    """Physical quantities are not negative."""

    positive: Annotated[
        bool,
        Flag("--positive/--signed", panel=TUNING),
        Field(description="Allow no negative values in the image."),
    ] = True


class Entry(Config):
    """Which part of a file to take."""

    entry: Annotated[
        str | None,
        Flag("--entry", panel=TUNING, metavar="NAME"),
        Field(description="Name of the data in a file that holds several arrays."),
    ] = None
    slice_: Annotated[
        int | None,
        Flag("--slice", metavar="N"),
        Field(ge=0, description="Which slice of a volume, from 0."),
    ] = None


class BeamOptions(Config):
    """The geometry of a tomograph."""

    geometry: Annotated[
        Literal["parallel", "fan"],
        Flag("--geometry", panel=GEOMETRY),
        Field(description="Shape of the beam."),
    ] = "parallel"
    source_distance: Annotated[
        float | None,
        Flag("--source-distance", panel=GEOMETRY),
        Field(gt=0, description="Fan: from the source to the axis of rotation."),
    ] = None
    detector_distance: Annotated[
        float | None,
        Flag("--detector-distance", panel=GEOMETRY),
        Field(gt=0, description="Fan: from the source to the detector."),
    ] = None
    detector: Annotated[
        Literal["flat", "arc"],
        Flag("--detector", panel=GEOMETRY),
        Field(description="Fan: a straight detector, or one curved around the source."),
    ] = "flat"
    bin_width: Annotated[
        float,
        Flag("--bin-width", panel=GEOMETRY),
        Field(gt=0, description="Width of a detector bin."),
    ] = 1.0
    centre: Annotated[
        float | None,
        Flag("--centre", panel=GEOMETRY),
        Field(description="Bin on which the axis of rotation falls; default: the middle."),
    ] = None
    pixel: Annotated[
        float | None,
        Flag("--pixel", panel=GEOMETRY),
        Field(gt=0, description="Size of a pixel; default: of a bin at the axis."),
    ] = None


class CtConfig(SolveOptions, Sized, Positive, Entry, BeamOptions):
    """Options of `mlkit reconstruct ct`."""

    sinogram: Annotated[
        Path,
        Flag(argument=True, metavar="SINOGRAM"),
        Field(description="Line integrals (angles, bins): .npy .tif .h5 .mat ..., or -."),
    ]
    angles: Annotated[
        str | None,
        Flag("--angles", "-a", metavar="FILE|SPAN"),
        Field(description="File with the angle of each view, or the span of even ones: 180."),
    ] = None
    angle_unit: Annotated[
        Literal["degrees", "radians"],
        Flag("--angle-unit", panel=TUNING),
        Field(description="Unit of the angles."),
    ] = "degrees"
    method: Annotated[
        Literal["crr", "tv", "fbp"],
        Flag("--method", "-m"),
        Field(description="Learned convex prior, total variation, or filtered back-projection."),
    ] = "crr"
    filter_: Annotated[
        Literal["ramp", "hann"],
        Flag("--filter", panel=TUNING),
        Field(description="Filter of the back-projection."),
    ] = "hann"
    transpose: Annotated[
        bool,
        Flag("--transpose", panel=TUNING),
        Field(description="The sinogram is stored (bins, angles)."),
    ] = False
    flat: Annotated[
        str | None,
        Flag("--flat", metavar="FILE|COUNT"),
        Field(description="Counts without an object: the data are counts, take -log(data/flat)."),
    ] = None
    dark: Annotated[
        str | None,
        Flag("--dark", panel=TUNING, metavar="FILE|COUNT"),
        Field(description="Counts without a beam, subtracted from data and flat."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write: .npy or .tif with values per length, .png to look at."),
    ] = Path("image.npy")


class MriConfig(SolveOptions, Positive, Entry):
    """Options of `mlkit reconstruct mri`."""

    kspace: Annotated[
        Path,
        Flag(argument=True, metavar="KSPACE"),
        Field(description="Complex samples (H, W) or (coils, H, W): .npy .h5 .cfl ..., or -."),
    ]
    mask: Annotated[
        Path | None,
        Flag("--mask", metavar="FILE"),
        Field(description="What was sampled, (H, W) or (W,); default: where the data are not 0."),
    ] = None
    coils: Annotated[
        str,
        Flag("--coils", metavar="FILE|estimate|none"),
        Field(
            description="Sensitivities (coils, H, W), or estimated from the sampled centre; one "
            "coil needs none if the image is real."
        ),
    ] = "auto"
    method: Annotated[
        Literal["crr", "tv", "zero-filled"],
        Flag("--method", "-m"),
        Field(description="Learned convex prior, total variation, or zeros for what is missing."),
    ] = "crr"
    centred: Annotated[
        bool,
        Flag("--centred/--corner", panel=TUNING),
        Field(description="Where frequency 0 (and the image's origin) lies in the file."),
    ] = True
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write: .npy or .tif with values as measured, .png to look at."),
    ] = Path("image.npy")


class PictureConfig(SolveOptions):
    """Options of `mlkit reconstruct image`."""

    image: Annotated[
        Path,
        Flag(argument=True, metavar="IMAGE"),
        Field(description="A blurred, small or incomplete picture, or - for standard input."),
    ]
    kernel: Annotated[
        Path | None,
        Flag("--kernel", "-k", metavar="FILE"),
        Field(description="The blur: what a point became (.npy .mat .txt or a picture)."),
    ] = None
    boundary: Annotated[
        Literal["unknown", "symmetric", "zero", "periodic"],
        Flag("--boundary", panel=TUNING),
        Field(description="What the blur saw beyond the frame."),
    ] = "unknown"
    scale: Annotated[
        int, Flag("--scale"), Field(ge=1, le=16, description="Enlarge by this factor.")
    ] = 1
    offset: Annotated[
        int,
        Flag("--offset", panel=TUNING),
        Field(ge=0, description="With --kernel: which of each --scale pixels was kept."),
    ] = 0
    mask: Annotated[
        Path | None,
        Flag("--mask", metavar="FILE"),
        Field(description="Picture or array, 0 where pixels of IMAGE are missing."),
    ] = None
    method: Annotated[
        Literal["crr", "tv"],
        Flag("--method", "-m"),
        Field(description="Learned convex prior, or total variation."),
    ] = "crr"
    positive: Annotated[
        bool,
        Flag("--positive/--signed", panel=TUNING),
        Field(description="Allow no negative values in the image."),
    ] = False
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write: a picture, or .npy or .tif with values in [0, 1]."),
    ] = Path("image.png")


class MatrixConfig(SolveOptions, Positive):
    """Options of `mlkit reconstruct matrix`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Measured numbers, as many as the operator has rows; or -."),
    ]
    operator: Annotated[
        Path,
        Flag("--operator", "-A", metavar="FILE.npz"),
        Field(description="Matrix (rows, pixels) from scipy.sparse.save_npz, or a dense .npy."),
    ]
    shape: Annotated[
        str,
        Flag("--shape", metavar="HxW"),
        Field(description="Height and width of the image, pixels row by row."),
    ]
    method: Annotated[
        Literal["crr", "tv"],
        Flag("--method", "-m"),
        Field(description="Learned convex prior, or total variation."),
    ] = "crr"
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write: .npy, .tif, or .png to look at."),
    ] = Path("image.npy")

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str) -> str:
        if parse_size(value) is None or "x" not in value.lower():
            raise ValueError("must be HEIGHTxWIDTH, for instance 256x256")
        return value
