"""MoCo's queue of past keys, with the video that each of them shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import UsageError

EMPTY = -1


class Queue(nn.Module):
    """The last `size` keys (K, d), first in first out; `ids` (K,) is -1 where there is none yet.

    Raises `UsageError` when `size` is no multiple of `batch`, the number of keys per step.
    """

    keys: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int, batch: int) -> None:
        super().__init__()
        if size % batch:
            below = size - size % batch or batch
            raise UsageError(
                f"--queue {size}: no multiple of the {batch} videos of a step",
                f"give --queue {below}, or --queue 0 for a size that fits",
            )
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), EMPTY))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor, ids: Tensor) -> None:
        """Put keys (B, d) and their ids (B,) in the place of the oldest ones."""
        size = len(self.keys)
        places = (self.place + torch.arange(len(keys), device=self.ids.device)) % size
        self.keys[places] = keys.to(self.keys)
        self.ids[places] = ids.to(self.ids)
        self.place.copy_((self.place + len(keys)) % size)

    def same(self, ids: Tensor) -> Tensor:
        """Return (B, K): True where an entry is of the video `ids` (B,), or empty."""
        return (self.ids[None] == ids[:, None]) | (self.ids[None] == EMPTY)
