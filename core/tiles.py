"""Local functions of images, computed tile by tile so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(x: Tensor, tile: int, halo: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `function`, images (B, C, H, W) to images of the same shape, in tiles of `tile` pixels.

    `function` takes what lies outside of its input as zero and sees at most `halo` pixels far.
    Each tile is computed with that much around it, cut at the frame, so the result does not
    depend on the tiles.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= tile:
        return function(x)
    out = torch.empty_like(x)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            y, z = max(0, top - halo), max(0, left - halo)
            part = function(x[..., y : top + tile + halo, z : left + tile + halo])
            inside = part[..., top - y : top - y + tile, left - z : left - z + tile]
            out[..., top : top + tile, left : left + tile] = inside
    return out
