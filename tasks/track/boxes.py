"""Geometry of boxes in numpy: rows of (left, top, width, height)."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def iou_matrix(a: Array, b: Array) -> Array:
    """Return the intersection over union of every box of `a` (N, 4) with every one of `b` (M, 4).

    An empty union gives 0.
    """
    overlap = _overlaps(a, b)
    areas_a, areas_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = areas_a[:, None] + areas_b[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def covered(a: Array, b: Array) -> Array:
    """Return which share of each box of `a` (N, 4) lies inside each one of `b` (M, 4)."""
    overlap = _overlaps(a, b)
    areas = np.broadcast_to((a[:, 2] * a[:, 3])[:, None], overlap.shape)
    return np.divide(overlap, areas, out=np.zeros_like(overlap), where=areas > 0)


def _overlaps(a: Array, b: Array) -> Array:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    return np.clip(high - low, 0, None).prod(-1)


def paired_iou(a: Array, b: Array) -> Array:
    """Return the intersection over union of row i of `a` with row i of `b`, (N,)."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(-1)
    union = a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def centres(boxes: Array) -> Array:
    """Return the middle points (N, 2) of boxes."""
    return boxes[:, :2] + boxes[:, 2:] / 2


def to_relative(boxes: Array, width: int, height: int) -> Array:
    """Turn pixels into (cx, cy, w, h) relative to an image of `width` x `height`, unclipped."""
    size = np.array([width, height, width, height], dtype=np.float64)
    return np.concatenate((centres(boxes), boxes[:, 2:]), axis=1) / size


def from_relative(boxes: Array, width: int, height: int) -> Array:
    """Turn relative (cx, cy, w, h) into pixels (left, top, width, height)."""
    size = np.array([width, height, width, height], dtype=np.float64)
    scaled = np.asarray(boxes, dtype=np.float64) * size
    return np.concatenate((scaled[:, :2] - scaled[:, 2:] / 2, scaled[:, 2:]), axis=1)
