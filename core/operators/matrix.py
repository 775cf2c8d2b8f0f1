"""An operator given as an explicit sparse matrix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Operator

DENSE = 2000  # up to this many unknowns, all singular values are cheap


class Matrix(Operator):
    """A sparse matrix (rows, H * W) applied to images read row by row.

    `matrix` is any scipy sparse matrix; `data_shape` has as many elements as the matrix rows
    (default: a vector). The matrix and its transpose are both kept in compressed rows, float32.
    """

    def __init__(
        self, matrix: Any, image_shape: Sequence[int], data_shape: Sequence[int] | None = None
    ) -> None:
        rows, columns = matrix.shape
        super().__init__(image_shape, (rows,) if data_shape is None else data_shape)
        if columns != math.prod(self.image_shape) or rows != math.prod(self.data_shape):
            raise ValueError(
                f"a matrix {rows} x {columns} does not map images {self.image_shape} "
                f"to data {self.data_shape}"
            )
        self.register_buffer("matrix", _compressed(matrix.tocsr()))
        self.register_buffer("transposed", _compressed(matrix.T.tocsr()))

    def _map(self, image: Tensor) -> Tensor:
        return _multiply(self.get_buffer("matrix"), image).reshape(-1, *self.data_shape)

    def _transpose(self, data: Tensor) -> Tensor:
        return _multiply(self.get_buffer("transposed"), data).reshape(-1, 1, *self.image_shape)

    def floor(self) -> float:
        """Return the smallest singular value of a small matrix, less rounding; else 0."""
        matrix = self.get_buffer("matrix")
        rows, columns = matrix.shape
        if rows < columns or columns > DENSE:
            return 0.0
        values = torch.linalg.svdvals(matrix.to_dense().double())
        return max(0.0, float(values[-1] - 1e-9 * values[0]))


def _compressed(matrix: Any) -> Tensor:
    """Turn a scipy CSR matrix into a torch one with 32-bit indices, which are 4 times faster."""
    if matrix.nnz >= 2**31:
        raise ValueError(f"a matrix with {matrix.nnz:,} entries is too large")
    matrix.sum_duplicates()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            matrix.shape,
            check_invariants=True,
        )


def _multiply(matrix: Tensor, batch: Tensor) -> Tensor:
    """Return the products (B, rows) of a matrix with the items of a batch (B, ...)."""
    flat = batch.flatten(1)
    if len(flat) == 1:  # matrix times vector is faster than times a matrix of one column
        return (matrix @ flat[0])[None]
    return (matrix @ flat.T).T
