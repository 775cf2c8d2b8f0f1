"""Where in a video clips begin, and which frames they are made of."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def draw_starts(
    length: int, span: int, clips: int, max_gap: int | None, generator: torch.Generator
) -> Tensor:
    """Return the first frames (clips,) of independent clips of `span` frames, each uniform.

    With `max_gap` no two are further apart: they are uniform in a window of that many frames
    which is itself uniform. One clip is taken twice: two views of the same frames.
    """
    last = max(0, length - span)
    if clips == 1:
        return torch.randint(last + 1, (1,), generator=generator).repeat(2)
    if max_gap is None or max_gap >= last:
        return torch.randint(last + 1, (clips,), generator=generator)
    begin = torch.randint(last - max_gap + 1, (1,), generator=generator)
    return begin + torch.randint(max_gap + 1, (clips,), generator=generator)


def clip_frames(start: int, span: int, count: int, length: int) -> NDArray[np.int64]:
    """Return `count` frame numbers evenly from start to start + span - 1, inside the video."""
    places = np.linspace(start, start + max(1, span) - 1, count)
    return np.clip(np.rint(places), 0, length - 1).astype(np.int64)


def even_starts(length: int, span: int, clips: int) -> list[int]:
    """Return the first frames of `clips` clips, evenly from the beginning to the end."""
    last = max(0, length - span)
    if clips == 1:
        return [last // 2]
    return [round(last * i / (clips - 1)) for i in range(clips)]
