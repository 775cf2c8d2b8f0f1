"""X-ray tomography: line integrals through an image, for parallel and fan beams.

Conventions. The rotation axis is the centre of the image; x points right, y points up, pixel
centres lie at multiples of `pixel` around it. Angles are in radians, counter-clockwise. A ray
of a parallel beam at angle theta satisfies x cos(theta) + y sin(theta) = s, so that the sinogram
of angle 0 is the sum of the image's columns, as in scikit-image's `radon`. Line integrals are
image values times length, lengths in the unit of `pixel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .matrix import Matrix

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Beam:
    """A parallel beam: which lines are measured.

    `angles` in radians, `bins` detector bins of width `bin_width`, the rotation axis projected
    on bin number `centre` (fractions allowed; default: the middle of the detector).
    """

    angles: Array
    bins: int
    bin_width: float = 1.0
    centre: float | None = None

    def __post_init__(self) -> None:
        if self.bins < 1 or not self.bin_width > 0:
            raise ValueError(f"no detector: {self.bins} bins of width {self.bin_width}")
        if self.angles.ndim != 1 or self.angles.size == 0 or not np.isfinite(self.angles).all():
            raise ValueError("angles must be a row of finite numbers")

    @property
    def offsets(self) -> Array:
        """Position of each bin on the detector, relative to the axis, (bins,)."""
        centre = (self.bins - 1) / 2 if self.centre is None else self.centre
        return (np.arange(self.bins, dtype=np.float64) - centre) * self.bin_width

    def rays(self, angle: float) -> tuple[Array, Array]:
        """Return a point (bins, 2) and a unit direction (bins, 2) of each ray of a view."""
        along = np.array([math.cos(angle), math.sin(angle)])
        points = self.offsets[:, None] * along
        return points, np.broadcast_to([-along[1], along[0]], points.shape)

    def check_image(self, reach: float) -> None:
        """Parallel beams come from infinity: no image is too large."""


@dataclass(frozen=True)
class FanBeam(Beam):
    """A fan beam from a point source that turns around the image.

    At angle theta the source stands at `source` (distance from the axis) times
    (sin theta, -cos theta), and the middle of the detector opposite, at distance `detector` from
    the source. A `flat` detector has bins of `bin_width` on a line; an `arc` is centred on
    the source and its bins are `bin_width` long. With a far source the fan becomes the
    parallel beam of the same angles, magnified by detector / source.
    """

    source: float = math.inf
    detector: float = math.inf
    shape: Literal["flat", "arc"] = "flat"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.source < self.detector < math.inf:
            raise ValueError(
                f"source to axis {self.source:g} must be positive and smaller than source to "
                f"detector {self.detector:g}"
            )
        if not np.abs(self.fan_angles).max() < math.pi / 2:
            raise ValueError("the fan is wider than 180 degrees")

    @property
    def fan_angles(self) -> Array:
        """Angle gamma of each ray against the central one, (bins,) in radians."""
        offsets = self.offsets / self.detector
        return np.arctan(offsets) if self.shape == "flat" else offsets

    def rays(self, angle: float) -> tuple[Array, Array]:
        """Return the source (bins, 2) and a unit direction (bins, 2) of each ray of a view."""
        directions = angle - self.fan_angles
        unit = np.stack([-np.sin(directions), np.cos(directions)], axis=1)
        origin = self.source * np.array([math.sin(angle), -math.cos(angle)])
        return np.broadcast_to(origin, unit.shape), unit

    def check_image(self, reach: float) -> None:
        """Raise `ValueError` when the source would stand inside the image's circle."""
        if self.source <= reach:
            raise ValueError(
                f"source to axis {self.source:g} lies inside the image, which reaches "
                f"{reach:g} from the axis"
            )


class Tomography(Matrix):
    """Line integrals of an image along the rays of a beam, as a sparse matrix.

    Joseph's method (IEEE Trans. Med. Imaging 1, 1982): linear interpolation across the axis
    that the ray crosses most steeply; the transpose is exact. Data are (B, views, bins).
    """

    def __init__(self, beam: Beam, image_shape: Sequence[int], pixel: float = 1.0) -> None:
        if not pixel > 0:
            raise ValueError(f"pixels of size {pixel:g} have no content")
        height, width = image_shape
        beam.check_image(pixel * math.hypot(height, width) / 2)
        views = [joseph(*beam.rays(angle), (height, width), pixel) for angle in beam.angles]
        matrix = sparse.vstack(views, format="csr")
        super().__init__(matrix, image_shape, (len(beam.angles), beam.bins))
        self.beam, self.pixel = beam, pixel


def joseph(
    points: Array, directions: Array, shape: tuple[int, int], pixel: float
) -> sparse.csr_matrix:
    """Return the matrix (rays, H * W) of line integrals along rays.

    `points` (rays, 2) lie on the rays and `directions` (rays, 2) are their unit vectors, both as
    (x, y) in the coordinates of this module.
    """
    steep = np.abs(directions[:, 0]) < np.abs(directions[:, 1])
    parts, order = [], []
    for rows_first in (True, False):  # step along y, interpolate along x; then the other way
        chosen = np.flatnonzero(steep == rows_first)
        if chosen.size:
            cells, weights = _cross(points, directions, chosen, shape, pixel, rows_first)
            parts.append(_rows(cells, weights, shape[0] * shape[1]))
            order.append(chosen)
    if len(parts) == 1:
        return parts[0]
    return sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]


def _rows(cells: NDArray[np.intp], weights: Array, columns: int) -> sparse.csr_matrix:
    """Return a matrix with the positive ones of `weights` (rows, n) in the columns `cells`."""
    inside = weights > 0
    ends = np.concatenate([[0], inside.sum(1).cumsum()])
    return sparse.csr_matrix((weights[inside], cells[inside], ends), (len(cells), columns))


def _cross(
    points: Array,
    directions: Array,
    chosen: NDArray[np.intp],
    shape: tuple[int, int],
    pixel: float,
    rows_first: bool,
) -> tuple[NDArray[np.intp], Array]:
    """Return cells and weights (rays, 2 * steps) where rays cross the lines of pixel centres.

    Column j has its centre at x = (j - (W - 1) / 2) pixel, row i at y = ((H - 1) / 2 - i) pixel.
    """
    height, width = shape
    signs, middles = np.array([1, -1]), np.array([(width - 1) / 2, (height - 1) / 2])
    place = signs * points[chosen] / pixel + middles  # (column, row) as fractions
    course = signs * directions[chosen]
    main, other = (1, 0) if rows_first else (0, 1)
    steps = np.arange((width, height)[main])
    slope = course[:, other] / course[:, main]
    across = place[:, other, None] + slope[:, None] * (steps - place[:, main, None])
    lower = np.floor(across)
    fraction = across - lower
    length = pixel / np.abs(course[:, main, None])  # of the ray between two steps
    cells, weights = [], []
    for neighbour, share in ((lower, 1 - fraction), (lower + 1, fraction)):
        inside = (neighbour >= 0) & (neighbour < (width, height)[other])
        index = np.where(inside, neighbour, 0).astype(np.intp)
        cells.append(steps * width + index if rows_first else index * width + steps)
        weights.append(np.where(inside, share * length, 0.0))
    return np.concatenate(cells, axis=1), np.concatenate(weights, axis=1)
