"""Images as inputs of vision models: size, crop and normalisation, and reading files that way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as pillow
from PIL.Image import Image
from torch import Tensor

from .media import centre_square, read_image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the input of a model.

    The short side is scaled to `resize`, the centre square of `size` is cut out, values in
    [0, 1] are normalised by `mean` and `std`. `squash` scales both sides to `size` instead.
    """

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    squash: bool = False

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return len(self.mean)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images (N, C, H, W) in [0, 1] into model inputs."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        return (images - mean) / torch.tensor(self.std, device=images.device).view(-1, 1, 1)

    def denormalise(self, inputs: Tensor) -> Tensor:
        """Undo `normalise`."""
        std = torch.tensor(self.std, device=inputs.device).view(-1, 1, 1)
        return inputs * std + torch.tensor(self.mean, device=inputs.device).view(-1, 1, 1)


def read_input(path: str | Path, spec: InputSpec) -> Tensor:
    """Return an image file (`-`: standard input) as (C, size, size) in [0, 1].

    Raises `DataError` when it cannot be read.
    """
    return fit_picture(read_image(path, "L" if spec.channels == 1 else "RGB"), spec)


def fit_picture(picture: Image, spec: InputSpec) -> Tensor:
    """Scale and crop one picture to (C, size, size) in [0, 1]."""
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    method = pillow.Resampling[spec.interpolation.upper()]
    if spec.squash:
        picture = picture.resize((spec.size, spec.size), method)
    else:
        picture = centre_square(picture, spec.size, spec.resize, method)
    levels = torch.from_numpy(np.array(picture))
    return levels.reshape(spec.size, spec.size, spec.channels).permute(2, 0, 1) / 255
