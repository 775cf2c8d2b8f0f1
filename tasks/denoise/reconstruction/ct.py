"""Sinograms as tomographs write them, validated before any work starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....core.arrays import entries, read_array
from ....core.errors import DataError, UsageError
from ....core.operators.backprojection import filtered_backprojection
from ....core.operators.tomography import Beam, FanBeam, Tomography
from .config import BeamOptions, CtConfig, parse_size
from .noise import sinogram_noise
from .problem import Scan

Array = NDArray[Any]
LARGEST = 1_000_000_000  # entries of the matrix of a tomograph


def read_ct(config: CtConfig) -> Scan:
    """Return the scan that a configuration describes.

    Raises `UsageError` for geometries that cannot be, `DataError` for data that do not fit.
    """
    sinograms, stored = _read_sinograms(config)
    angles = read_angles(config, sinograms.shape[1], stored, sinograms.shape[2])
    beam = make_beam(config, angles, sinograms.shape[2])
    pixel = config.pixel or default_pixel(config)
    size = parse_size(config.size) if config.size else default_size(beam, pixel)
    assert size is not None
    operator = make_tomograph(beam, size, pixel)
    data = torch.from_numpy(np.ascontiguousarray(sinograms, np.float32))
    classical = filtered_backprojection(data, beam, size, pixel, config.filter_)
    return Scan(operator, data, classical, data[0].numel(), sinogram_noise(data))


def make_beam(options: BeamOptions, angles: Array, bins: int) -> Beam:
    """Return the beam of these options. Raises `UsageError` for a geometry that cannot be."""
    centre = options.centre
    if centre is not None and not 0 <= centre <= bins - 1:
        raise UsageError(f"--centre {centre:g} is not on the detector of {bins} bins")
    distances = options.source_distance, options.detector_distance
    if options.geometry == "parallel":
        if distances != (None, None):
            raise UsageError("a parallel beam has no source distance", "add --geometry fan")
        return Beam(angles, bins, options.bin_width, centre)
    source, detector = distances
    if source is None or detector is None:
        raise UsageError("--geometry fan needs --source-distance and --detector-distance")
    try:
        return FanBeam(angles, bins, options.bin_width, centre, source, detector, options.detector)
    except ValueError as error:
        raise UsageError(f"this fan beam is impossible: {error}") from error


def default_pixel(options: BeamOptions) -> float:
    """Return the width of a bin, as large as it is at the axis."""
    if options.source_distance and options.detector_distance:
        return options.bin_width * options.source_distance / options.detector_distance
    return options.bin_width


def default_size(beam: Beam, pixel: float) -> tuple[int, int]:
    """Return the size of the square around the circle that all views see."""
    if isinstance(beam, FanBeam):
        radius = beam.source * math.sin(float(np.abs(beam.fan_angles[[0, -1]]).max()))
    else:
        radius = float(np.abs(beam.offsets[[0, -1]]).max()) + beam.bin_width / 2
    side = max(1, round(2 * radius / pixel))
    return side, side


def make_tomograph(beam: Beam, size: tuple[int, int], pixel: float) -> Tomography:
    """Return the operator. Raises `UsageError` when it is impossible or too large."""
    rays, steps = len(beam.angles) * beam.bins, 2 * max(size)
    if rays * steps > LARGEST:
        raise UsageError(
            f"{rays:,} rays through {size[0]} x {size[1]} pixels need a matrix of up to "
            f"{16e-9 * rays * steps:.0f} GB",
            "use fewer pixels (--size, --pixel), or every second view or bin",
        )
    try:
        return Tomography(beam, size, pixel)
    except ValueError as error:
        raise UsageError(str(error), "check --size, --pixel and --source-distance") from error


def _read_sinograms(config: CtConfig) -> tuple[Array, Array | None]:
    """Return sinograms (N, angles, bins), and angles in degrees where the file holds them."""
    path, names = config.sinogram, entries(config.sinogram)
    exchange = "exchange/data" in names and config.entry is None
    entry = "exchange/data" if exchange else config.entry
    # The Data Exchange layout is (angles, slices, bins).
    array = read_array(path, entry, config.slice_, axis=1 if exchange else 0)
    if array.dtype.kind == "c":
        raise DataError(f"{path} holds complex numbers, a sinogram is real")
    if exchange and array.ndim == 3:
        array = array.swapaxes(0, 1)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise DataError(
            f"{path} has shape {array.shape}, a sinogram has two axes (angles, bins)",
            "for a volume (slices, angles, bins) choose one with --slice",
        )
    if config.transpose:
        array = array.swapaxes(1, 2)
    stored = read_array(path, "exchange/theta") if "exchange/theta" in names else None
    return _line_integrals(array, config, names), stored


def _line_integrals(array: Array, config: CtConfig, names: Sequence[str]) -> Array:
    """Return -log of relative counts where flat fields are known; refuse what look like counts."""
    fields = {"flat": config.flat, "dark": config.dark}
    if "exchange/data_white" in names and config.flat is None and config.entry is None:
        fields = {"flat": f"{config.sinogram}", "dark": f"{config.sinogram}"}
    if fields["flat"] is None:
        if config.dark is not None:
            raise UsageError("--dark needs --flat")
        return _check_integrals(array, config.sinogram)
    dark = 0.0 if fields["dark"] is None else _field(config, "dark", fields["dark"], array.shape)
    flat = _field(config, "flat", fields["flat"], array.shape) - dark
    counts = array.astype(np.float64) - dark
    if not np.all(flat > 0):
        raise DataError("the flat field is not brighter than the dark one everywhere")
    lost = float((counts <= 0).mean())
    if lost > 0.01:
        raise DataError(
            f"{config.sinogram}: {100 * lost:.0f} % of the counts are 0 or less; -log needs "
            "positive ones",
            "check --flat and --dark; without them the data are taken as line integrals",
        )
    least = counts[counts > 0].min()
    return np.asarray(-np.log(np.maximum(counts, least) / flat))


def _field(config: CtConfig, name: str, given: str, shape: tuple[int, ...]) -> Any:
    """Return a flat or dark field that fits sinograms of `shape`: a number, or (..., bins)."""
    try:
        return float(given)
    except ValueError:
        pass
    entry = {"flat": "exchange/data_white", "dark": "exchange/data_dark"}[name]
    inside = Path(given) == config.sinogram
    if inside and entry not in entries(given):
        return 0.0
    field = read_array(given, entry if inside else None).astype(np.float64)
    if inside and field.ndim == 3:  # (repetitions, slices, bins)
        chosen = slice(None) if config.slice_ is None else slice(config.slice_, config.slice_ + 1)
        field = field[:, chosen].mean(0)[:, None]
    elif field.ndim == 2 and field.shape != shape[1:]:  # repetitions
        field = field.mean(0)
    try:
        np.broadcast_shapes(field.shape, shape)
    except ValueError as error:
        raise DataError(
            f"--{name} {given} has shape {field.shape}, the sinogram {shape[1:]}",
            "give one number, one value per bin, or one per datum",
        ) from error
    return field


def _check_integrals(array: Array, path: Path) -> Array:
    """Refuse values that cannot be line integrals."""
    low, high = float(array.min()), float(array.max())
    if high <= 0 or low < -0.5 * high:
        raise DataError(
            f"{path} has values from {low:g} to {high:g}, line integrals are not negative",
            "if they are -log already, check the sign; if they are counts, pass --flat",
        )
    border = max(1, array.shape[2] // 20)
    edge = np.median(np.concatenate([array[..., :border], array[..., -border:]], axis=-1))
    middle = np.median(array[..., border : array.shape[2] - border] if border else array)
    if low >= 0 and array.shape[2] >= 20 and edge > 1.2 * middle:
        raise DataError(
            f"{path} is brighter at the detector's ends ({edge:g}) than in the middle "
            f"({middle:g}), like photon counts and unlike line integrals",
            "pass the counts without an object as --flat COUNT or --flat FILE: -log is taken then",
        )
    return array


def read_angles(config: CtConfig, views: int, stored: Array | None, bins: int) -> Array:
    """Return the angle of each view in radians.

    Raises `UsageError` without angles, `DataError` for another number of them, or for values
    that look like the other unit.
    """
    if config.angles is None and stored is None:
        raise UsageError(
            "the angles of the views are missing",
            "pass --angles FILE, or --angles 180 for even ones over 180 degrees",
        )
    if config.angles is not None and (span := _number(config.angles)) is not None:
        return np.deg2rad(np.arange(views) * span / views)
    values = stored if config.angles is None else read_array(config.angles)
    assert values is not None
    values = values.astype(np.float64).ravel()
    name = config.angles or f"{config.sinogram}:exchange/theta"
    if len(values) != views:
        hint = "give one angle per row of the sinogram"
        if len(values) == bins:
            hint = "the sinogram seems to be stored as (bins, angles): pass --transpose"
        raise DataError(f"{name} has {len(values)} angles, the sinogram has {views} views", hint)
    return _in_radians(values, config.angle_unit, name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 < abs(value) <= 360:
        raise UsageError(f"--angles {text}: the span of the views must be within 360 degrees")
    return value


def _in_radians(values: Array, unit: str, name: str) -> Array:
    span = float(np.ptp(values))
    if unit == "radians":
        if span > 4 * math.pi + 0.1:
            raise DataError(
                f"{name} spans {span:g}, which looks like degrees, not radians",
                "leave out --angle-unit radians",
            )
        return values
    if len(values) > 3 and span <= 2 * math.pi + 0.01:
        raise DataError(
            f"{name} spans {span:.3g} degrees over {len(values)} views, which looks like radians",
            "pass --angle-unit radians",
        )
    return np.deg2rad(values)
