from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.core.operators.resize import Resize

CASES = [
    ((12, 9), (24, 18), 0.0),
    ((12, 9), (6, 3), 0.0),
    ((13, 10), (19, 7), 0.0),
    ((8, 6), (16, 12), 0.25),
    ((2, 3), (8, 1), 0.0),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def by_definition(line: np.ndarray, size: int, shift: float) -> np.ndarray:
    """Interpolate a line pixel by pixel; beyond its ends it is mirrored."""
    length, out = len(line), np.zeros(size)
    stretch = max(1.0, length / size)
    mirrored = np.pad(line, 4 * length, mode="symmetric")
    for i in range(size):
        centre = (i + 0.5) * length / size - 0.5 + shift
        weights = [keys((centre - j) / stretch) for j in range(-4 * length, 5 * length)]
        out[i] = np.dot(weights, mirrored) / np.sum(weights)
    return out


@pytest.mark.parametrize(("shape", "size", "shift"), CASES)
def test_it_is_keys_interpolation(
    shape: tuple[int, int], size: tuple[int, int], shift: float
) -> None:
    image = random(*shape)
    rows = np.stack([by_definition(line, size[1], shift) for line in image.numpy()])
    wanted = np.stack([by_definition(line, size[0], shift) for line in rows.T]).T
    found = Resize(shape, size, shift)(image[None, None])
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-12)


@pytest.mark.parametrize(("shape", "size", "shift"), CASES)
def test_the_adjoint_is_exact(shape: tuple[int, int], size: tuple[int, int], shift: float) -> None:
    operator = Resize(shape, size, shift)
    x, y = random(2, 1, *shape), random(2, 1, *size, seed=1)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("size", [(40, 32), (80, 64), (13, 11)])
def test_it_agrees_with_torch_away_from_the_border(size: tuple[int, int]) -> None:
    image = random(1, 1, 40, 32)
    wanted = F.interpolate(image, size, mode="bicubic", antialias=True)
    margin = [max(3, -(-3 * n // 10)) for n in size]
    inside = (..., slice(margin[0], -margin[0]), slice(margin[1], -margin[1]))
    torch.testing.assert_close(Resize((40, 32), size)(image)[inside], wanted[inside])


def test_constants_stay_and_ramps_shift() -> None:
    constant = Resize((9, 7), (20, 3))(torch.full((1, 1, 9, 7), 0.3, dtype=torch.float64))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3))
    ramp = torch.arange(40.0, dtype=torch.float64).expand(1, 1, 40, 40)
    found = Resize((40, 40), (80, 80), shift=0.25)(ramp)[0, 0, 40, 10:-10]
    torch.testing.assert_close(found, torch.arange(10, 70, dtype=torch.float64) / 2)


def test_gradients_and_precision_follow_the_image() -> None:
    image = random(1, 1, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(Resize((6, 5), (4, 9)), (image,))
    assert Resize((6, 5), (3, 3))(torch.rand(1, 1, 6, 5)).dtype == torch.float32
