"""Training data: patches of clean images at several scales, and noise on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.media import find_images, read_image
from ...core.pictures import read_picture
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig
from .noise import SMALLEST, estimate_sigma

SCALES = (1.0, 0.9, 0.8, 0.7)
NOISY = 4.0  # grey levels above which an image is not called clean


def read_grey(path: str | Path, scale: float = 1.0) -> Tensor:
    """Return an image as bytes (H, W), reduced by cubic interpolation where `scale` < 1."""
    from PIL import Image

    image = read_image(path, "L")
    if scale != 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))


@dataclass(frozen=True)
class Patches:
    """All patches of side `size` on a grid of distance `stride`, with fresh noise at each visit.

    `pictures` are bytes (H, W); `sigma` is the standard deviation of the noise in [0, 1].
    """

    pictures: Sequence[Tensor]
    size: int
    stride: int
    sigma: float

    def __post_init__(self) -> None:
        if not len(self):
            raise DataError(f"no image is as large as a patch of {self.size} pixels")

    def _grid(self, picture: Tensor) -> tuple[int, int]:
        height, width = picture.shape
        return (
            max(0, (height - self.size) // self.stride + 1),
            max(0, (width - self.size) // self.stride + 1),
        )

    @cached_property
    def _ends(self) -> Tensor:
        """Where each picture's patches end in the list of all."""
        counts = [rows * columns for rows, columns in map(self._grid, self.pictures)]
        return torch.tensor(counts).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.pictures else 0

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return noisy and clean patches, both (n, 1, size, size) in [0, 1] before the noise."""
        ends = self._ends
        owners = torch.searchsorted(ends, indices, right=True)
        patches = []
        for index, owner in zip(indices.tolist(), owners.tolist(), strict=True):
            place = index - (int(ends[owner - 1]) if owner else 0)
            row, column = divmod(place, self._grid(self.pictures[owner])[1])
            top, left = row * self.stride, column * self.stride
            patches.append(self.pictures[owner][top : top + self.size, left : left + self.size])
        clean = torch.stack(patches)[:, None] / 255
        return clean + self.sigma * torch.randn(clean.shape, generator=generator), clean


def read_pictures(
    paths: Sequence[Path], scales: Sequence[float] = SCALES, progress: Progress | None = None
) -> list[Tensor]:
    """Return every image at every scale, as bytes (H, W)."""
    pictures = []
    with (progress or Silent()).task("reading images", len(paths)) as task:
        for path in paths:
            pictures += [read_grey(path, scale) for scale in scales]
            task.advance()
    return pictures


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Look at every image of a folder: size, depth, colour, estimated noise.

    Raises `DataError` when there are none; broken ones are listed as failures.
    """
    paths, failures = find_images(config.data), {}
    noise: dict[str, float] = {}
    kinds: dict[str, int] = {}
    sizes: list[tuple[int, int]] = []
    with (progress or Silent()).task("checking", len(paths)) as task:
        for path in paths:
            task.advance(1, path.name)
            try:
                picture = read_picture(path)
            except DataError as error:
                failures[str(path)] = error.message
                continue
            height, width = picture.planes.shape[1:]
            if min(height, width) < SMALLEST:
                failures[str(path)] = f"{path} is {width}x{height} pixels: too small"
                continue
            colours = "grey" if len(picture.planes) == 1 else "colour"
            alpha = ", alpha" if picture.alpha is not None else ""
            kind = f"{colours}, {picture.depth} bit{alpha}"
            kinds[kind] = kinds.get(kind, 0) + 1
            sizes.append((width, height))
            noise[str(path)] = 255 * max(estimate_sigma(picture.planes))
    return _findings(config, len(paths), sizes, kinds, noise, failures)


def _findings(
    config: CheckConfig,
    count: int,
    sizes: Sequence[tuple[int, int]],
    kinds: dict[str, int],
    noise: dict[str, float],
    failures: dict[str, str],
) -> Result:
    noisy = [name for name, sigma in noise.items() if sigma > NOISY]
    rows = [("images", f"{count}, {len(failures)} unusable")]
    rows += [(kind, str(number)) for kind, number in sorted(kinds.items())]
    if sizes:
        smallest, largest = min(sizes, key=math.prod), max(sizes, key=math.prod)
        rows.append(("sizes", "{}x{} to {}x{}".format(*smallest, *largest)))
        middle = sorted(noise.values())[len(noise) // 2]
        rows.append(
            ("noise", f"median {middle:.1f}, largest {max(noise.values()):.1f} grey levels")
        )
    notes = []
    if noisy:
        notes.append(
            f"{len(noisy)} images look noisy or finely textured (above {NOISY:g}); train on clean "
            f"ones. The first: {noisy[0]}"
        )
    return Result(
        inputs={"data": str(config.data)},
        metrics={"images": count, "usable": len(noise), "kinds": kinds, "noise": noise},
        tables=(Table("Images", ("what", "found"), rows),),
        notes=tuple(notes),
        failures=failures,
    )
