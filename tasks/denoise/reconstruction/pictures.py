"""Pictures that were blurred, reduced or lost pixels, and explicit matrices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....core.arrays import read_array
from ....core.errors import DataError, UsageError
from ....core.media import IMAGE_SUFFIXES, read_image
from ....core.operators.base import Operator
from ....core.operators.image import Blur, Crop, Mask, Subsample
from ....core.operators.matrix import Matrix
from ....core.pictures import Picture
from ....core.pictures import read_picture as read_any_picture
from ..noise import estimate_sigma
from .config import MatrixConfig, PictureConfig, parse_size
from .noise import patchy_noise
from .problem import Scan

Array = NDArray[Any]
MARGIN = 16  # pixels beyond the frame that are reconstructed too, and cut off at the end
LOUD = 0.01  # noise of a matrix's data where nothing is known, as a part of their root mean square


def read_picture(config: PictureConfig) -> tuple[Scan, Picture, int]:
    """Return a scan of one item per colour, the picture, and the margin to cut off.

    The image is reconstructed with a margin around the frame, where only the prior decides:
    the prior sees black beyond its image, and must not see it at the frame.

    Raises `DataError` for unusable files, `UsageError` for options that do not fit together.
    """
    picture = open_picture(config.image)
    data = picture.planes[:, None]
    mask = None if config.mask is None else _read_mask(config.mask, data)
    if config.kernel is None and config.scale == 1 and mask is None:
        raise UsageError(
            "nothing to undo: no --kernel, no --mask, no --scale",
            "to remove noise alone use 'mlkit denoise'",
        )
    height, width = (n * config.scale for n in data.shape[2:])
    operator, margin = _camera(config, (height, width))
    if mask is not None:
        operator = Mask(mask) @ operator
        data = data * mask
    noise = max(estimate_sigma(data[:, 0])) if mask is None else patchy_noise(data, mask)
    classical = _classical(data, mask, config.scale, margin)
    numbers = data[0].numel() if mask is None else int(mask.sum())
    return Scan(operator, data, classical, numbers, noise), picture, margin


def open_picture(path: Path) -> Picture:
    """Return a picture file, or an array as a picture: its values are kept, white is 1.

    Raises `DataError` for what is neither.
    """
    if is_picture(path):
        return read_any_picture(path)
    array = read_array(path)
    if array.dtype.kind == "c" or array.ndim not in (2, 3):
        raise DataError(f"{path} holds {array.dtype} of shape {array.shape}, not a picture")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., :3].transpose(2, 0, 1)
    if array.ndim == 3 and array.shape[0] not in (1, 3):
        raise DataError(f"{path} has shape {array.shape}: neither grey nor red, green, blue")
    planes = np.ascontiguousarray(array, np.float32).reshape(-1, *array.shape[-2:])
    return Picture(torch.from_numpy(planes))


def is_picture(path: Path) -> bool:
    """Return True for image files and standard input; .tif counts when it has 8 or 16 bit."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff") and path.is_file():
        return read_array(path).dtype.kind == "u"
    return suffix in IMAGE_SUFFIXES or str(path) == "-"


def read_kernel(path: Path) -> Tensor:
    """Return a blur kernel (kh, kw) with sum 1.

    Raises `DataError` when it is not a matrix of numbers with a positive sum.
    """
    if is_picture(path):
        kernel: Array = np.asarray(read_image(path, "L"), np.float64)
    else:
        kernel = np.squeeze(read_array(path))
    if kernel.ndim != 2 or kernel.dtype.kind == "c":
        raise DataError(f"{path} has shape {kernel.shape}, a kernel is a matrix of real numbers")
    if not kernel.sum() > 0:
        raise DataError(f"{path} sums to {kernel.sum():g}: a blur keeps brightness, its sum is 1")
    return torch.from_numpy(kernel.astype(np.float32) / float(kernel.sum()))


def _camera(config: PictureConfig, frame: tuple[int, int]) -> tuple[Operator, int]:
    """Return what turns an image with a margin into the picture, and the margin."""
    scale, offset = config.scale, config.offset
    if config.kernel is None:
        if config.offset:
            raise UsageError("--offset needs --kernel")
        kernel, margin = torch.full((scale, scale), scale**-2.0), MARGIN
        correlation, offset = True, scale // 2  # each pixel is the mean of a square
    else:
        kernel, correlation = read_kernel(config.kernel), False
        margin = MARGIN + max(kernel.shape) // 2
        if max(kernel.shape) > max(frame):
            raise DataError(
                f"{config.kernel} is {kernel.shape[0]} x {kernel.shape[1]}, larger than the "
                f"image of {frame[0]} x {frame[1]}"
            )
    wide = (frame[0] + 2 * margin, frame[1] + 2 * margin)
    crop = Crop(wide, margin)
    if kernel.numel() == 1:
        return crop, margin
    if config.boundary == "unknown":
        blurred: Operator = crop @ Blur(kernel, wide, "zero", correlation)
    else:
        blurred = Blur(kernel, frame, config.boundary, correlation) @ crop
    if scale == 1:
        return blurred, margin
    if offset >= scale:
        raise UsageError(f"--offset {offset} must be smaller than --scale {scale}")
    return Subsample(scale, frame, offset) @ blurred, margin


def _classical(data: Tensor, mask: Tensor | None, scale: int, margin: int) -> Tensor:
    """Return the picture with holes filled by what is around, enlarged, with a mirrored margin."""
    filled = data if mask is None else _fill(data, mask)
    if scale > 1:
        filled = torch.nn.functional.interpolate(filled, scale_factor=scale, mode="bicubic")
    padded = np.pad(
        filled.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), "symmetric"
    )
    return torch.from_numpy(padded)


def _fill(data: Tensor, mask: Tensor) -> Tensor:
    """Fill missing pixels from their neighbours, in ever wider squares."""
    value, weight = data * mask, mask.expand_as(data)
    while not bool((weight > 0).all()):
        total = torch.nn.functional.avg_pool2d(value * weight, 3, 1, 1, count_include_pad=False)
        share = torch.nn.functional.avg_pool2d(weight, 3, 1, 1, count_include_pad=False)
        known = weight > 0
        value = torch.where(known, value, total / share.clamp_min(1e-12))
        weight = torch.where(known, weight, (share > 0).to(weight))
    return value


def _read_mask(path: Path, data: Tensor) -> Tensor:
    if is_picture(path):
        mask: Array = np.asarray(read_image(path, "L"))
    else:
        mask = np.squeeze(read_array(path))
    if mask.shape != tuple(data.shape[2:]):
        raise DataError(f"{path} has shape {mask.shape}, the image has {tuple(data.shape[2:])}")
    if not mask.any():
        raise DataError(f"{path} is zero everywhere: no pixel is left")
    return torch.from_numpy((mask != 0).astype(np.float32))


def read_matrix(config: MatrixConfig) -> Scan:
    """Return the scan of an explicit matrix. Raises `DataError` when its size does not fit."""
    shape = parse_size(config.shape)
    assert shape is not None
    matrix = _open_matrix(config.operator)
    data = read_array(config.data)
    if data.dtype.kind == "c":
        raise DataError(f"{config.data} holds complex numbers", "stack real and imaginary parts")
    if matrix.shape[1] != math.prod(shape):
        raise DataError(
            f"{config.operator} has {matrix.shape[1]} columns, an image of {shape[0]} x "
            f"{shape[1]} has {math.prod(shape)} pixels"
        )
    if matrix.shape[0] != data.size:
        raise DataError(f"{config.operator} has {matrix.shape[0]} rows, {config.data} {data.size}")
    operator = Matrix(matrix, shape)
    values = torch.from_numpy(data.astype(np.float32).reshape(1, -1))
    if not operator.norm():
        raise DataError(f"{config.operator} is zero everywhere")
    return Scan(operator, values, _landweber(operator, values), data.size, math.nan)


def _open_matrix(path: Path) -> Any:
    """Return a scipy sparse matrix from save_npz, or from a dense array."""
    from scipy import sparse

    if path.suffix.lower() != ".npz":
        dense = read_array(path)
        if dense.ndim != 2 or dense.dtype.kind == "c":
            raise DataError(f"{path} has shape {dense.shape}, an operator is a real matrix")
        return sparse.csr_matrix(dense)
    try:
        matrix = sparse.load_npz(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Exception as error:  # many kinds, by what is missing inside
        raise DataError(
            f"{path} is not a sparse matrix ({error})", "write it with scipy.sparse.save_npz"
        ) from error
    if matrix.dtype.kind not in "uif" or not np.isfinite(matrix.data).all():
        raise DataError(f"{path} holds values that are not finite real numbers")
    return matrix


def _landweber(operator: Operator, data: Tensor, steps: int = 20) -> Tensor:
    """Return a few gradient steps towards the data, the usual first image without a prior."""
    size = operator.norm() ** 2
    image = torch.zeros(1, 1, *operator.image_shape)
    for _ in range(steps):
        image = image - operator.adjoint(operator(image) - data) / size
    return image
