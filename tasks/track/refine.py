"""What may follow tracking: gaps filled by lines, tracks smoothed by a Gaussian process (GSI)."""

from __future__ import annotations

import numpy as np

from .boxes import Array
from .formats import Rows, make_rows
from .metrics import join


def interpolate(rows: Rows, most: int) -> Rows:
    """Fill the gaps of every track that are shorter than `most` frames by straight lines.

    Filled rows carry the smaller score of the two ends. Frames that were not processed are
    filled too: at a low rate this gives every frame a box.
    """
    parts = [rows]
    for identity in np.unique(rows.identity):
        track = rows[rows.identity == identity]
        gaps = np.diff(track.frame)
        for place in np.flatnonzero((gaps > 1) & (gaps < most)):
            begin, end, gap = track[place : place + 1], track[place + 1 : place + 2], gaps[place]
            share = (np.arange(1, gap) / gap)[:, None]
            boxes = begin.boxes * (1 - share) + end.boxes * share
            score = float(min(begin.score[0], end.score[0]))
            frames = begin.frame[0] + np.arange(1, gap)
            parts.append(make_rows(frames, identity, boxes, score, begin.category[0]))
    return join(parts)


def smooth(rows: Rows, length: float) -> Rows:
    """Replace the boxes of every track by the mean of a Gaussian process over its frames.

    Squared-exponential kernel of `length` frames, noise of a tenth of the deviation (the second
    half of GSI, Du et al. 2023).
    """
    boxes = rows.boxes.copy()
    for identity in np.unique(rows.identity):
        chosen = np.flatnonzero(rows.identity == identity)
        if len(chosen) > 2:
            boxes[chosen] = _smooth_track(rows.frame[chosen], rows.boxes[chosen], length)
    return Rows(**{**vars(rows), "boxes": boxes})


def _smooth_track(frames: Array, boxes: Array, length: float) -> Array:
    apart = (frames[:, None] - frames[None]) / length
    kernel = np.exp(-0.5 * apart**2)
    mean, spread = boxes.mean(0), boxes.std(0) + 1e-9
    weights = np.linalg.solve(kernel + 0.01 * np.eye(len(frames)), (boxes - mean) / spread)
    return mean + spread * (kernel @ weights)
