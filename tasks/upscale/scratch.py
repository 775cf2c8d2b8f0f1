"""Training from scratch on the one image (ZSSR): the baseline that meta-learning replaces.

Source: Shocher, Cohen, Irani, "Zero-Shot Super-Resolution using Deep Internal Learning", CVPR
2018, with a given kernel: no turns of the crops, rate divided by 10 when progress is flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .adaptation import CROP, Adapted, Pair, clock
from .model import Network

RATE, LOWEST = 1e-3, 9e-6
EVERY, WINDOW = 60, 256  # steps between looks at the losses, and how many are looked at
FLATNESS = 1.5  # a slope of the losses below their scatter / this, per window, is flat
GAIN = 0.1  # of the initial weights' variance


def train_from_scratch(
    network: Network, pair: Pair, steps: int, seconds: float, generator: torch.Generator
) -> Adapted:
    """Train a freshly drawn network on random crops of the pair with Adam.

    Ends after `steps`, after `seconds`, or when the rate has fallen below 9e-6.
    """
    begin = clock(pair.inputs.device)
    weights = {name: w.detach().clone().requires_grad_() for name, w in network.weights().items()}
    adam = torch.optim.Adam(weights.values(), RATE)
    losses: list[float] = []
    lowered = 0
    for step in range(steps):
        with torch.enable_grad():
            loss = _random_crop(pair, generator).loss(weights)
            adam.zero_grad()
            loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
        if step - lowered >= EVERY and step % EVERY == 0 and _is_flat(losses[lowered:]):
            adam.param_groups[0]["lr"] /= 10
            lowered = step
        if adam.param_groups[0]["lr"] < LOWEST or clock(pair.inputs.device) - begin >= seconds:
            break
    found = {name: w.detach() for name, w in weights.items()}
    return Adapted(found, losses, len(losses), clock(pair.inputs.device) - begin)


def _random_crop(pair: Pair, generator: torch.Generator) -> Pair:
    """Return one crop of 128 pixels, or a whole image that is smaller."""
    count, _, height, width = pair.inputs.shape
    number = int(torch.randint(count, (1,), generator=generator))
    room = (max(1, height - CROP + 1), max(1, width - CROP + 1))
    y, x = (int(torch.randint(n, (1,), generator=generator)) for n in room)

    def cut(images: Tensor) -> Tensor:
        return images[number : number + 1, :, y : y + CROP, x : x + CROP]

    return Pair(cut(pair.inputs), cut(pair.targets))


def _is_flat(losses: Sequence[float]) -> bool:
    """Return True when a line through the last losses falls less than they scatter."""
    recent = np.array(losses[-WINDOW:])
    steps = np.arange(len(recent))
    slope, offset = np.polyfit(steps, recent, 1)
    scatter = math.sqrt(float(np.square(recent - slope * steps - offset).mean()))
    return bool(-slope * len(recent) < scatter / FLATNESS)
