"""Which degradation an image has: as the user says, or estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.progress import Progress
from .blur import BLOCK, estimate_kernel
from .checkpoint import embedded
from .degradation import Degradation, Sampling, bicubic
from .kernels import covariance, parse_gaussian, read_kernel

ESTIMATE, PLAIN = "estimate", "bicubic"
SIDE = 16  # smallest side of the reduced image, so of the image in units of the scale


@dataclass(frozen=True)
class Choice:
    """What was said about the blur: `kernel` None is to be estimated, `plain` is no blur."""

    sampling: Sampling
    kernel: Tensor | None = None
    plain: bool = False

    @property
    def known(self) -> bool:
        """True when nothing is estimated."""
        return self.plain or self.kernel is not None


def choose(text: str, sampling: Sampling, progress: Progress) -> Choice:
    """Return what `--kernel` says. Raises `UsageError` or `DataError` when it says nothing."""
    if text == ESTIMATE:
        return Choice(sampling)
    if text == PLAIN:
        return Choice("bicubic", plain=True)
    if text.startswith("gaussian:"):
        return Choice(sampling, parse_gaussian(text))
    kernel, oddities = read_kernel(Path(text))
    for oddity in oddities:
        progress.warn(oddity)
    return Choice(sampling, kernel)


def degradation_of(
    choice: Choice,
    image: Tensor,
    scale: int,
    estimators: Mapping[str, Tensor],
    name: str,
) -> Degradation:
    """Return the degradation of an image (1, 3, H, W) for one enlargement by a whole scale.

    Raises `DataError` where the image is too small for the estimate or for its kernel.
    """
    if choice.plain:
        return bicubic(scale)
    kernel = choice.kernel
    if kernel is None:
        kernel = _estimate(choice, image, scale, estimators, name)
    if max(kernel.shape) > min(image.shape[-2:]) // scale:
        size = f"{kernel.shape[0]}x{kernel.shape[1]}"
        raise DataError(
            f"{name}: the kernel of {size} taps is larger than the image reduced by {scale}",
            "pass a smaller kernel, or a larger image",
        )
    return Degradation(kernel.float(), scale, choice.sampling)


def _estimate(
    choice: Choice, image: Tensor, scale: int, estimators: Mapping[str, Tensor], name: str
) -> Tensor:
    key = f"{choice.sampling}.{scale}"
    coefficients = estimators.get(key)
    if coefficients is None:
        coefficients = embedded("mzsr").estimators.get(key)
    if coefficients is None:
        raise UsageError(
            f"no estimator of blurs for {choice.sampling} sampling at scale {scale}",
            "tell the blur with --kernel",
        )
    if min(image.shape[-2:]) < BLOCK:
        raise DataError(
            f"{name} is {_size(image)} pixels: too small to estimate its blur",
            f"tell it with --kernel, or use at least {BLOCK}x{BLOCK} pixels",
        )
    return estimate_kernel(image[0], coefficients, scale)


def check_size(image: Tensor, scale: int, name: str) -> None:
    """Raise `DataError` when an image is too small to learn from."""
    least = SIDE * scale
    if min(image.shape[-2:]) < least:
        raise DataError(
            f"{name} is {_size(image)} pixels: too small to learn from at scale {scale}",
            f"--steps 0 works at any size; adaptation needs {least}x{least}",
        )


def describe(degradation: Degradation) -> dict[str, Any]:
    """Return plain numbers about a degradation: sampling, variances and angle of its blur."""
    xx, xy, yy = covariance(degradation.kernel).tolist()
    matrix = torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(matrix)
    angle = math.degrees(math.atan2(float(vectors[1, 1]), float(vectors[0, 1]))) % 180
    return {
        "sampling": degradation.sampling,
        "variances": [round(float(values[1]), 4), round(float(values[0]), 4)],
        "degrees": round(angle, 1),
    }


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
