"""Training data: patches of clean images at several scales, and noise on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.media import read_image
from ...core.progress import Progress, Silent

SCALES = (1.0, 0.9, 0.8, 0.7)


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
