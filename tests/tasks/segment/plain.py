"""The formulas of CMSA written down again in NumPy, one sentence at a time, nothing factorised.

The tensor of all words times all cells is built, pooling and softmax are explicit. `state` is a
state dict as float64 arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
State = Mapping[str, Array]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def unit(x: Array) -> Array:
    return x / np.sqrt(np.maximum((x**2).sum(-1, keepdims=True), 1e-12))


def dense(state: State, name: str, x: Array) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def convolve(state: State, name: str, x: Array) -> Array:
    """3 x 3 with zeros around; x is (C, H, W)."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + height, j : j + width]
            out += np.einsum("oc,chw->ohw", weight[:, :, i, j], part)
    return out


def place_map(height: int, width: int) -> Array:
    rows = []
    for h in range(height):
        for w in range(width):
            box = (2 * w / width - 1, 2 * h / height - 1,
                   2 * (w + 1) / width - 1, 2 * (h + 1) / height - 1)  # fmt: skip
            rows.append([*box, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1 / width, 1 / height])
    return np.array(rows).reshape(height, width, 8)


def pool(x: Array) -> Array:
    """Maxima of 2 x 2 x 2, what sticks out pooled alone; (N, H, W, d) -> (M, d)."""
    n, h, w, d = x.shape
    out = [
        x[i : i + 2, j : j + 2, k : k + 2].reshape(-1, d).max(0)
        for i in range(0, n, 2)
        for j in range(0, h, 2)
        for k in range(0, w, 2)
    ]
    return np.array(out)


def tokens_of(visual: Array, words: Array, place: Array) -> Array:
    n, (h, w, _) = len(words), visual.shape
    return np.concatenate(
        (
            np.broadcast_to(visual, (n, *visual.shape)),
            np.broadcast_to(words[:, None, None], (n, h, w, words.shape[1])),
            np.broadcast_to(place, (n, *place.shape)),
        ),
        -1,
    )


def mean_response(
    state: State, name: str, visual: Array, words: Array, place: Array, reduced: bool
) -> Array:
    tokens = tokens_of(visual, words, place)
    if reduced:
        tokens = relu(dense(state, f"{name}.reduce", tokens))
    n, h, w, channels = tokens.shape
    queries = relu(dense(state, f"{name}.query", tokens)).reshape(n * h * w, -1)
    keys = pool(relu(dense(state, f"{name}.key", tokens)))
    values = pool(relu(dense(state, f"{name}.value", tokens)))
    scores = queries @ keys.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    assert np.allclose(weights.sum(1), 1)
    attended = relu(dense(state, f"{name}.output", weights @ values)).reshape(n, h, w, channels)
    return (attended + tokens).mean(0)


def fuse(state: State, levels: Sequence[Array]) -> Array:
    fused = np.zeros_like(levels[0])
    for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        c, f, r = np.split(convolve(state, f"fusion.gates.{i}", levels[i]), 3)
        m, g, a = sigmoid(f + 1), sigmoid(r + 1), state["fusion.mix"][i]
        mixed = a * m * levels[j] + (1 - a) * m * levels[k] + (1 - m) * c
        fused += g * np.tanh(mixed) + (1 - g) * levels[i]
    return fused


def legacy(logits: Array, size: int) -> Array:
    """TensorFlow 1's bilinear resize without align_corners, pixel by pixel."""
    height, width = logits.shape
    out = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y * height / size, x * width / size
            i, j = int(v), int(u)
            i2, j2 = min(i + 1, height - 1), min(j + 1, width - 1)
            b, a = v - i, u - j
            top = logits[i, j] * (1 - a) + logits[i, j2] * a
            bottom = logits[i2, j] * (1 - a) + logits[i2, j2] * a
            out[y, x] = top * (1 - b) + bottom * b
    return out


def logits(
    state: State, features: Sequence[Array], numbers: Sequence[int], reduced: Sequence[int]
) -> Array:
    """Cells' logits (h, w) for levels (5, 4, 3), each (C, h, w), and one sentence."""
    top = np.einsum("oc,chw->ohw", state["top.weight"][:, :, 0, 0], features[0])
    top += state["top.bias"][:, None, None]
    maps = [unit(np.moveaxis(x, 0, -1)) for x in (top, *features[1:])]
    words = unit(state["words.table.weight"][list(numbers)])
    place = place_map(*maps[0].shape[:2])
    levels = []
    for i, visual in enumerate(maps):
        mean = mean_response(state, f"levels.{i}", visual, words, place, bool(reduced[i]))
        levels.append(np.moveaxis(relu(dense(state, f"levels.{i}.project", mean)), -1, 0))
    return convolve(state, "score", fuse(state, levels))[0]
