"""Every operator: exact adjoint, norm, floor; and each against its own definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, sparse
from torch import Tensor

from mlkit.core.operators.base import Identity, Operator
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.operators.image import Blur, Crop, Mask, Subsample
from mlkit.core.operators.matrix import Matrix
from mlkit.core.operators.tomography import Beam, FanBeam, Tomography

SHAPE = (12, 9)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coils(count: int = 3) -> Tensor:
    return torch.complex(random(count, *SHAPE, seed=1), random(count, *SHAPE, seed=2))


def angles(count: int, span: float = math.pi) -> np.ndarray:
    return np.arange(count) * span / count


MAKERS: dict[str, Callable[[], Operator]] = {
    "identity": lambda: Identity(SHAPE),
    "parallel": lambda: Tomography(Beam(angles(7), 17, 0.9, 7.3), SHAPE, 1.1),
    "fan flat": lambda: Tomography(
        FanBeam(angles(7, 2 * math.pi), 19, 1.5, None, 30.0, 55.0, "flat"), SHAPE
    ),
    "fan arc": lambda: Tomography(
        FanBeam(angles(7, 2 * math.pi), 19, 1.5, 9.5, 30.0, 55.0, "arc"), SHAPE
    ),
    "one coil": lambda: MaskedFourier(random(9) > 0, SHAPE),
    "coils": lambda: MaskedFourier(random(*SHAPE) > 0, SHAPE, coils()),
    "coils corner": lambda: MaskedFourier(random(*SHAPE) > 0, SHAPE, coils(), centred=False),
    "blur": lambda: Blur(random(5, 3), SHAPE),
    "blur zero": lambda: Blur(random(4, 6), SHAPE, "zero"),
    "blur wrap": lambda: Blur(random(3, 4), SHAPE, "periodic", correlation=True),
    "blur wide": lambda: Blur(random(31, 27), SHAPE),
    "subsample": lambda: Subsample(3, SHAPE, 1),
    "crop": lambda: Crop(SHAPE, 3),
    "mask": lambda: Mask(random(*SHAPE) > 0),
    "matrix": lambda: Matrix(sparse.random(40, 108, 0.1, random_state=0), SHAPE),
    "small camera": lambda: Subsample(2, SHAPE) @ Blur(random(3, 3), SHAPE),
}


def data_like(operator: Operator, batch: int, dtype: torch.dtype) -> Tensor:
    data = operator(random(batch, 1, *SHAPE, dtype=dtype))
    real = random(*data.shape, seed=3, dtype=dtype)
    if not data.is_complex():
        return real
    return torch.complex(real, random(*data.shape, seed=4, dtype=dtype))


def dot(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.sum())


def dense(operator: Operator) -> Tensor:
    """Write the operator as a matrix (data, pixels), with real and imaginary parts as rows."""
    pixels = math.prod(operator.image_shape)
    columns = operator(torch.eye(pixels, dtype=torch.float64).reshape(-1, 1, *operator.image_shape))
    if columns.is_complex():
        columns = torch.view_as_real(columns)
    return columns.reshape(pixels, -1).T


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
def test_the_adjoint_is_exact(name: str, dtype: torch.dtype, tolerance: float) -> None:
    operator = MAKERS[name]().to(dtype)
    for batch in (1, 2):
        image = random(batch, 1, *SHAPE, dtype=dtype, seed=5)
        data = data_like(operator, batch, dtype)
        mapped, back = operator(image), operator.adjoint(data)
        assert mapped.shape == (batch, *operator.data_shape)
        assert back.shape == image.shape
        assert back.dtype == dtype
        scale = float(mapped.norm() * data.norm())
        assert abs(dot(mapped, data) - dot(image, back)) <= tolerance * scale
        assert scale > 0


@pytest.mark.parametrize("name", MAKERS)
def test_the_norm_is_the_largest_singular_value_and_the_floor_is_below_the_smallest(
    name: str,
) -> None:
    operator = MAKERS[name]().double()
    values = torch.linalg.svdvals(dense(operator))
    largest = float(values[0])
    assert largest * (1 - 1e-9) <= operator.norm() <= largest * 1.0051
    smallest = float(values[-1]) if len(values) == math.prod(SHAPE) else 0.0
    rows = dense(operator).shape[0]
    assert operator.floor() <= (smallest if rows >= math.prod(SHAPE) else 0.0) + 1e-7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MAKERS)
def test_a_gpu_computes_the_same(name: str) -> None:
    operator, image = MAKERS[name](), random(2, 1, *SHAPE)
    mapped = operator(image)
    back = operator.adjoint(mapped)
    there = operator.to("cuda")
    torch.testing.assert_close(there(image.cuda()).cpu(), mapped, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(there.adjoint(mapped.cuda()).cpu(), back, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_other_shapes_are_refused(name: str) -> None:
    operator = MAKERS[name]()
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 12, 9\), not"):
        operator(torch.zeros(1, 1, 9, 12))
    with pytest.raises(ValueError, match="data must be"):
        operator.adjoint(torch.zeros(2, *(n + 1 for n in operator.data_shape)))


def test_the_floor_is_known_where_it_can_be() -> None:
    square = sparse.random(30, 20, 0.9, random_state=1)
    smallest = np.linalg.svd(square.toarray(), compute_uv=False)[-1]
    assert Matrix(square, (4, 5)).floor() == pytest.approx(smallest, rel=1e-5)
    assert Identity(SHAPE).floor() == 1
    assert MaskedFourier(torch.ones(SHAPE), SHAPE).floor() == 1
    assert Mask(torch.ones(SHAPE)).floor() == 1
    full = MaskedFourier(torch.ones(SHAPE), SHAPE, coils()).double()
    assert full.floor() == pytest.approx(float(torch.linalg.svdvals(dense(full))[-1]), rel=1e-5)


def test_the_norm_of_nothing_is_zero() -> None:
    assert Mask(torch.zeros(SHAPE)).norm() == 0


# --- photographs ---


@pytest.mark.parametrize("correlation", [False, True])
@pytest.mark.parametrize(
    ("boundary", "mode"), [("symmetric", "reflect"), ("zero", "constant"), ("periodic", "wrap")]
)
def test_blur_is_that_of_scipy(boundary: str, mode: str, correlation: bool) -> None:
    image, kernel = random(1, 1, *SHAPE), random(5, 7)
    blur = Blur(kernel, SHAPE, boundary, correlation)  # type: ignore[arg-type]
    peer = ndimage.correlate if correlation else ndimage.convolve
    expected = peer(image[0, 0].double().numpy(), kernel.double().numpy(), mode=mode)
    np.testing.assert_allclose(blur(image)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 4), (2, 5)])
def test_a_point_source_shows_the_kernel(shape: tuple[int, int]) -> None:
    image, kernel = torch.zeros(1, 1, *SHAPE), random(*shape)
    image[0, 0, 6, 4] = 1
    top, left = 6 - shape[0] // 2, 4 - shape[1] // 2
    seen = Blur(kernel, SHAPE)(image)[0, 0, top : top + shape[0], left : left + shape[1]]
    torch.testing.assert_close(seen, kernel, atol=1e-6, rtol=1e-5)


def test_subsample_takes_every_nth_pixel() -> None:
    image = random(1, 1, *SHAPE)
    assert torch.equal(Subsample(4, SHAPE, 3)(image), image[..., 3::4, 3::4])
    with pytest.raises(ValueError, match="offset 2"):
        Subsample(2, SHAPE, 2)
    with pytest.raises(ValueError, match="nothing left"):
        Subsample(40, SHAPE, 39)


def test_crop_shows_the_middle() -> None:
    image = random(2, 1, *SHAPE)
    assert torch.equal(Crop(SHAPE, 2)(image), image[..., 2:-2, 2:-2])
    with pytest.raises(ValueError, match="leaves nothing"):
        Crop(SHAPE, 5)


def test_operators_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit images"):
        Subsample(2, SHAPE) @ Subsample(2, SHAPE)
    with pytest.raises(ValueError, match="two axes"):
        Blur(torch.ones(3), SHAPE)
    with pytest.raises(ValueError, match="no boundary 'mirror'"):
        Blur(torch.ones(3, 3), SHAPE, "mirror")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not map"):
        Matrix(sparse.eye(5), SHAPE)
    with pytest.raises(ValueError, match="no content"):
        Identity((0, 5))


# --- magnetic resonance ---


def test_one_coil_that_sees_all_is_no_coil() -> None:
    mask, image = random(*SHAPE) > 0, random(1, 1, *SHAPE)
    ones = torch.ones(1, *SHAPE, dtype=torch.complex64)
    with_coils, without = MaskedFourier(mask, SHAPE, ones), MaskedFourier(mask, SHAPE)
    torch.testing.assert_close(with_coils(image), without(image))


def test_a_column_mask_is_a_mask_of_whole_columns() -> None:
    columns, image = random(9) > 0, random(1, 1, *SHAPE)
    whole = columns.expand(SHAPE)
    assert torch.equal(MaskedFourier(columns, SHAPE)(image), MaskedFourier(whole, SHAPE)(image))


@pytest.mark.parametrize("centred", [True, False])
def test_a_full_mask_is_inverted_by_zero_filling(centred: bool) -> None:
    image = random(1, 1, *SHAPE).abs()
    for maps in (None, coils()):
        operator = MaskedFourier(torch.ones(SHAPE), SHAPE, maps, centred)
        torch.testing.assert_close(operator.zero_filled(operator(image)), image, atol=2e-6, rtol=0)


def test_the_centred_transform_is_its_definition() -> None:
    """Sum over pixels counted from the middle, for frequencies counted from the middle."""
    image = random(1, 1, *SHAPE, dtype=torch.float64)
    waves = []
    for size in SHAPE:
        place = torch.arange(size, dtype=torch.float64) - size // 2
        waves.append(torch.exp(-2j * math.pi * torch.outer(place, place) / size) / size**0.5)
    expected = waves[0] @ image[0, 0].to(torch.complex128) @ waves[1].T
    found = MaskedFourier(torch.ones(SHAPE), SHAPE).double()(image)[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_masks_and_coils_must_fit() -> None:
    with pytest.raises(ValueError, match="mask"):
        MaskedFourier(torch.ones(12), SHAPE)
    with pytest.raises(ValueError, match="coils"):
        MaskedFourier(torch.ones(9), SHAPE, torch.ones(2, 9, 12))
