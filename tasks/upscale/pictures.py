"""Pictures of details, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...core.report import new_figure
from .adaptation import detailed_corners

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DETAIL = 48  # pixels of the small image


def strip(small: Tensor, panels: Mapping[str, Tensor], scale: int) -> Figure:
    """Draw the most detailed square of a small image (1, 3, H, W) and of its enlargements."""
    side = min(DETAIL, *small.shape[-2:])
    ((top, left),) = detailed_corners(small, side, 1)
    figure = new_figure(2.6 * (len(panels) + 1), 2.9)
    pieces = {"input": small[..., top : top + side, left : left + side]}
    for name, image in panels.items():
        rows = slice(scale * top, scale * (top + side))
        columns = slice(scale * left, scale * (left + side))
        pieces[name] = image[..., rows, columns]
    for axes, (name, piece) in zip(figure.subplots(1, len(pieces)), pieces.items(), strict=True):
        levels = (piece[0].cpu().clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        axes.imshow(levels.astype(np.uint8), interpolation="nearest")
        axes.set(title=name, xticks=[], yticks=[])
    return figure
