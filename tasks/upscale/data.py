"""Training data: detailed patches of sharp pictures, made small by blurs drawn at random."""

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
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .backprojection import network_input
from .config import CheckConfig
from .degradation import Degradation, Sampling, bicubic
from .kernels import random_kernel
from .losses import Task

TOGETHER = 4  # patches of a batch that share a blur
FLAT = 2.0  # grey levels of mean difference between neighbours below which a patch is left out


def read_colour(path: str | Path) -> Tensor:
    """Return an image as bytes (3, H, W); grey ones get three equal channels."""
    return torch.from_numpy(np.array(read_image(path, "RGB"))).permute(2, 0, 1).contiguous()


def read_pictures(paths: Sequence[Path], progress: Progress | None = None) -> list[Tensor]:
    """Return every image as bytes (3, H, W)."""
    pictures = []
    with (progress or Silent()).task("reading images", len(paths)) as task:
        for path in paths:
            pictures.append(read_colour(path))
            task.advance()
    return pictures


@dataclass(frozen=True)
class Blurs:
    """The distribution of degradations: a scale and a sampling of the lists, and a kernel.

    A scale that stands twice in the list is drawn twice as often. `plain` draws no kernel but
    plain bicubic reduction. `aligned` and `rounds` say how inputs are made (`network_input`).
    """

    scales: tuple[int, ...]
    samplings: tuple[Sampling, ...]
    aligned: bool = True
    plain: bool = False
    rounds: int = 0

    def draw(self, generator: torch.Generator) -> Degradation:
        """Return one degradation."""
        a, b = torch.randint(1 << 30, (2,), generator=generator).tolist()
        scale = self.scales[a % len(self.scales)]
        if self.plain:
            return bicubic(scale)
        sampling = self.samplings[b % len(self.samplings)]
        return Degradation(random_kernel(scale, generator).float(), scale, sampling)

    def input_of(self, images: Tensor, degradation: Degradation) -> Tensor:
        """Return what the network sees of sharp images (B, 3, H, W): made small and enlarged."""
        return network_input(degradation(images), degradation, self.aligned, self.rounds)


@dataclass(frozen=True)
class Patches:
    """Patches of side `size` on a grid of half that distance, flat ones left out.

    `pictures` are bytes (3, H, W). A batch is (inputs, targets), both (n, 3, size, size) in
    [0, 1], with a blur for every four patches.
    """

    pictures: Sequence[Tensor]
    size: int
    blurs: Blurs

    def __post_init__(self) -> None:
        if not len(self):
            raise DataError(
                f"no image holds a patch of {self.size} pixels with detail",
                "use larger or sharper images, or a smaller --patch",
            )

    @cached_property
    def places(self) -> Tensor:
        """Picture, top and left (n, 3) of every patch."""
        found = []
        stride = max(1, self.size // 2)
        for number, picture in enumerate(self.pictures):
            for top in range(0, picture.shape[1] - self.size + 1, stride):
                for left in range(0, picture.shape[2] - self.size + 1, stride):
                    piece = picture[:, top : top + self.size, left : left + self.size]
                    if _detail(piece) >= FLAT:
                        found.append((number, top, left))
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, indices: Tensor) -> Tensor:
        """Return patches (n, 3, size, size) in [0, 1]."""
        size = self.size
        return (
            torch.stack(
                [
                    self.pictures[number][:, top : top + size, left : left + size]
                    for number, top, left in self.places[indices].tolist()
                ]
            )
            / 255
        )

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of pre-training."""
        targets = _turned(self.cut(indices), generator)
        inputs = [
            self.blurs.input_of(few, self.blurs.draw(generator)) for few in targets.split(TOGETHER)
        ]
        return torch.cat(inputs), targets


@dataclass(frozen=True)
class Tasks:
    """Meta-learning tasks: one blur, `support` patches to adapt on and `query` ones to judge."""

    patches: Patches
    support: int
    query: int

    def __len__(self) -> int:
        return len(self.patches)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Task:
        """Return one task for each index: that patch, and others at random."""
        count = self.support + self.query
        inputs, targets = [], []
        for index in indices:
            chosen = torch.randint(len(self.patches), (count,), generator=generator)
            chosen[0] = index
            sharp = _turned(self.patches.cut(chosen), generator)
            blurs = self.patches.blurs
            inputs.append(blurs.input_of(sharp, blurs.draw(generator)))
            targets.append(sharp)
        x, y = torch.stack(inputs), torch.stack(targets)
        n = self.support
        return Task(x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def _detail(piece: Tensor) -> float:
    grey = piece.float().mean(0)
    return float(grey.diff(dim=0).abs().mean() + grey.diff(dim=1).abs().mean()) / 2


def _turned(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each patch at random, up-down, left-right and along its diagonal."""
    flips = torch.rand(3, len(patches), 1, 1, 1, generator=generator) < 0.5
    patches = torch.where(flips[0], patches.flip(2), patches)
    patches = torch.where(flips[1], patches.flip(3), patches)
    return torch.where(flips[2], patches.mT, patches)


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Look at every image of a folder: size, and how many patches it gives to train on.

    Raises `DataError` when there are none; broken ones are listed as failures.
    """
    paths, failures = find_images(config.data), {}
    patches: dict[str, int] = {}
    sizes: list[tuple[int, int]] = []
    blurs = Blurs((2,), ("bicubic",))
    with (progress or Silent()).task("checking", len(paths)) as task:
        for path in paths:
            task.advance(1, path.name)
            try:
                picture = read_colour(path)
                patches[str(path)] = len(Patches([picture], config.patch, blurs))
            except DataError as error:
                message = error.message
                failures[str(path)] = message if str(path) in message else f"{path}: {message}"
                continue
            sizes.append((picture.shape[2], picture.shape[1]))
    rows = [("images", f"{len(paths)}, {len(failures)} unusable")]
    rows.append((f"patches of {config.patch} pixels with detail", str(sum(patches.values()))))
    if sizes:
        smallest, largest = min(sizes, key=math.prod), max(sizes, key=math.prod)
        rows.append(("sizes", "{}x{} to {}x{}".format(*smallest, *largest)))
    return Result(
        inputs={"data": str(config.data)},
        metrics={"images": len(paths), "usable": len(patches), "patches": patches},
        tables=(Table("Images", ("what", "found"), rows),),
        failures=failures,
    )
