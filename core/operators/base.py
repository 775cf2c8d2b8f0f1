"""What every linear operator offers, and how operators are chained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..runtime import stream


class Operator(nn.Module):
    """A linear map H from real images (B, 1, *image_shape) to data (B, *data_shape).

    `forward` computes H x. `adjoint` computes H^T y with the exact transpose, so that
    <H x, y> = <x, H^T y> for the real inner product Re(sum(conj(a) b)) also where data are
    complex. Arithmetic follows the input's dtype; `.to(device)` and `.double()` move constants.
    """

    def __init__(self, image_shape: Sequence[int], data_shape: Sequence[int]) -> None:
        super().__init__()
        height, width = (int(n) for n in image_shape)
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height} x {width} pixels has no content")
        self.image_shape = (height, width)
        self.data_shape = tuple(int(n) for n in data_shape)

    def forward(self, image: Tensor) -> Tensor:
        """Return H x of shape (B, *data_shape). Raises `ValueError` for another image shape."""
        _check("images", image, (1, *self.image_shape))
        return self._map(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Return H^T y of shape (B, 1, H, W). Raises `ValueError` for another data shape."""
        _check("data", data, self.data_shape)
        return self._transpose(data)

    def _map(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def _transpose(self, data: Tensor) -> Tensor:
        raise NotImplementedError

    def floor(self) -> float:
        """Return a proven lower bound of the smallest singular value; 0 when none is known."""
        return 0.0

    @torch.no_grad()
    def norm(self, iterations: int = 200, tolerance: float = 1e-6, margin: float = 0.005) -> float:
        """Return ||H||, the largest singular value, `margin` on the safe side.

        Power iteration on H^T H from a random positive image. The estimate grows towards the
        norm and stops when it grows by less than `tolerance`; the margin covers what is left.
        Returns 0 for H = 0.
        """
        like = next(self.buffers(), torch.zeros(()))
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        start = torch.rand(1, 1, *self.image_shape, generator=stream(0), dtype=dtype)
        image = start.to(like.device)
        square = torch.zeros((), dtype=dtype, device=like.device)
        for _ in range(iterations):
            image = self.adjoint(self(image / image.norm()))
            before, square = square, image.norm()
            if square <= before * (1 + tolerance):
                break
        return (1 + margin) * float(square.sqrt())

    def __matmul__(self, inner: Operator) -> Composition:
        return Composition(self, inner)


class Composition(Operator):
    """The chain `outer @ inner`: first `inner`, then `outer`."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if inner.data_shape != (1, *outer.image_shape):
            raise ValueError(f"data {inner.data_shape} do not fit images {outer.image_shape}")
        super().__init__(inner.image_shape, outer.data_shape)
        self.outer, self.inner = outer, inner

    def _map(self, image: Tensor) -> Tensor:
        return self.outer(self.inner(image))

    def _transpose(self, data: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(data))

    def floor(self) -> float:
        """Return the product of the two bounds."""
        return self.outer.floor() * self.inner.floor()


class Identity(Operator):
    """The image itself is measured: denoising."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape, (1, *image_shape))

    def _map(self, image: Tensor) -> Tensor:
        return image

    def _transpose(self, data: Tensor) -> Tensor:
        return data

    def floor(self) -> float:
        """Return 1."""
        return 1.0


def _check(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.ndim != len(shape) + 1 or tuple(tensor.shape[1:]) != shape:
        wanted = ", ".join(["B", *(str(n) for n in shape)])
        raise ValueError(f"{what} must be ({wanted}), not {tuple(tensor.shape)}")
