"""Local functions of images, computed tile by tile so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(x: Tensor, tile: int, halo: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a local `function`, images to images of the same size, tile by tile.

    `function` takes what lies outside of its input as zero and sees `halo` pixels far. Each
    tile is computed with that much around it, cut at the frame, so the result does not depend
    on the tiles.
    """
    height, width = x.shape[-2:]
    out = torch.empty_like(x)
    together = max(1, tile**2 // (height * width))  # small images of a batch in one call
    for images, results in zip(x.split(together), out.split(together), strict=True):
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                y, z = max(0, top - halo), max(0, left - halo)
                part = function(images[..., y : top + tile + halo, z : left + tile + halo])
                inside = part[..., top - y : top - y + tile, left - z : left - z + tile]
                results[..., top : top + tile, left : left + tile] = inside
    return out
