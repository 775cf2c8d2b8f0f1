"""Blur kernels: Gaussians by formula or by chance, files, and what makes a kernel usable."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError, UsageError

TRAINED_SIZE = 15
LARGEST = 101  # taps along an axis
_CENTRED = 0.25  # pixels that the centre of mass may lie beside the middle


def gaussian(first: float, second: float, theta: float, size: int | None = None) -> Tensor:
    """Return an anisotropic Gaussian (size, size), float64, that sums to 1.

    `first` and `second` are the VARIANCES along its axes, in pixels of the large image squared;
    `theta` (radians) turns the first axis from the columns' direction towards the rows'. Without
    a `size`, the smallest odd one that reaches three standard deviations, 15 at least.
    """
    if size is None:
        size = max(TRAINED_SIZE, 2 * math.ceil(3 * math.sqrt(max(first, second))) + 1)
    cos, sin = math.cos(theta), math.sin(theta)
    turn = np.array([[cos, -sin], [sin, cos]])
    inverse = turn @ np.diag([1 / first, 1 / second]) @ turn.T
    axis = np.arange(size) - size // 2
    points = np.stack(np.meshgrid(axis, axis), -1).astype(float)  # (rows, columns, (x, y))
    kernel = np.exp(-0.5 * np.einsum("...i,ij,...j", points, inverse, points))
    return torch.from_numpy(kernel / kernel.sum())


def random_kernel(scale: float, generator: torch.Generator, size: int = TRAINED_SIZE) -> Tensor:
    """Draw a kernel as in training: l1 ~ U[1, 2.5 s], l2 ~ U[1, l1], theta ~ U[0, pi]."""
    a, b, c = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    first = 1 + a * (2.5 * scale - 1)
    return gaussian(first, 1 + b * (first - 1), math.pi * c, size)


def delta() -> Tensor:
    """Return the kernel that blurs nothing."""
    return torch.ones(1, 1, dtype=torch.float64)


def covariance(kernel: Tensor) -> Tensor:
    """Return a kernel's second moments (xx, xy, yy) about its centre of mass, pixels squared."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in kernel.shape)
    weights = kernel.double()
    y = rows - (weights.sum(1) * rows).sum()
    x = columns - (weights.sum(0) * columns).sum()
    xy = (weights * y[:, None] * x).sum()
    return torch.stack(((weights.sum(0) * x**2).sum(), xy, (weights.sum(1) * y**2).sum()))


def is_symmetric(kernel: Tensor) -> bool:
    """Return True when mirror images and quarter turns leave the kernel as it is."""
    if kernel.shape[0] != kernel.shape[1]:
        return False
    tolerance = 1e-6 * float(kernel.abs().max())
    others = (kernel.flip(0), kernel.flip(1), kernel.T)
    return all(bool(((kernel - other).abs() <= tolerance).all()) for other in others)


def parse_gaussian(text: str) -> Tensor:
    """Return the kernel that `gaussian:VAR` or `gaussian:L1,L2,DEGREES` names.

    Raises `UsageError` for anything else.
    """
    hint = "gaussian:2.0, or gaussian:4,1,45 (two variances in pixels squared, and degrees)"
    try:
        numbers = [float(part) for part in text.removeprefix("gaussian:").split(",")]
    except ValueError as error:
        raise UsageError(f"kernel {text}: not numbers", hint) from error
    if len(numbers) not in (1, 3):
        raise UsageError(f"kernel {text}: one number or three", hint)
    first, second = (numbers[0], numbers[1]) if len(numbers) == 3 else (numbers[0], numbers[0])
    if not (0.01 <= first <= 150 and 0.01 <= second <= 150):
        raise UsageError(f"kernel {text}: variances lie in 0.01..150", hint)
    return gaussian(first, second, math.radians(numbers[2]) if len(numbers) == 3 else 0.0)


def read_kernel(path: Path) -> tuple[Tensor, list[str]]:
    """Return the kernel in a .npy, .txt, .csv or MATLAB .mat file, and what is odd about it.

    It is scaled to sum 1. Raises `DataError` when it cannot serve as one.
    """
    array = np.squeeze(_read_array(path))
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"{path}: a kernel is a table of numbers, not {_describe(array)}")
    if max(array.shape) > LARGEST:
        raise DataError(f"{path}: a kernel of {_describe(array)} is larger than {LARGEST} taps")
    kernel = torch.from_numpy(array.astype(np.float64))
    total = float(kernel.sum())
    if abs(total) < 1e-8 * max(1.0, float(kernel.abs().sum())):
        raise DataError(f"{path}: the kernel sums to 0", "a blur keeps the brightness: sum 1")
    kernel = kernel / total
    return kernel, list(_oddities(kernel, path))


def _oddities(kernel: Tensor, path: Path) -> list[str]:
    found = []
    if any(n % 2 == 0 for n in kernel.shape):
        found.append(f"{path}: even size {tuple(kernel.shape)}, so the result is half a pixel off")
    if bool((kernel < 0).any()):
        found.append(f"{path}: the kernel has negative taps")
    for axis, n in enumerate(kernel.shape):
        mass = (kernel.sum(1 - axis) * torch.arange(n, dtype=torch.float64)).sum()
        if n % 2 and abs(float(mass) - n // 2) > _CENTRED:
            side = ("rows", "columns")[axis]
            found.append(f"{path}: off its centre by {float(mass) - n // 2:+.2f} {side}")
    return found


def _read_array(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if suffix == ".mat":
            return _read_matlab(path)
        if suffix in (".txt", ".csv"):
            return np.loadtxt(path, delimiter="," if suffix == ".csv" else None, ndmin=2)
    except FileNotFoundError as error:
        raise DataError(f"kernel {path} does not exist") from error
    except (OSError, ValueError, EOFError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable kernel ({reason})") from error
    raise UsageError(
        f"kernel {path}: unknown",
        "estimate, bicubic, gaussian:VAR, gaussian:L1,L2,DEGREES, or a .npy, .mat, .txt file",
    )


def _read_matlab(path: Path) -> np.ndarray:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=["kernel"])
    except MatReadError as error:
        raise ValueError(str(error) or "no MATLAB file") from error
    if "kernel" not in content:
        raise ValueError("it has no variable 'kernel'")
    return np.asarray(content["kernel"])


def _describe(array: np.ndarray) -> str:
    return "x".join(str(n) for n in array.shape) + f" {array.dtype}"
