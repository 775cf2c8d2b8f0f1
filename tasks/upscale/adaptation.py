"""Adapting the network to one image: a few gradient steps on a pair made from the image itself.

Source: Soh et al. 2020, section 3.4 (meta-test).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .backprojection import network_input
from .degradation import Degradation, crop_to_multiple
from .model import Network, Weights, apply

CROP, CROPS = 128, 16  # of a large image: so many pieces of so many pixels
ADAM_RATE = 1e-4

OptimizerName = Literal["sgd", "adam"]


@dataclass(frozen=True)
class Pair:
    """What the network learns from: inputs and targets (B, 3, H, W) in [0, 1].

    The outermost `margin` pixels do not count: there the network would see a false frame.
    """

    inputs: Tensor
    targets: Tensor
    margin: int = 0

    def loss(self, weights: Weights) -> Tensor:
        """Return the mean absolute error."""
        m = self.margin
        error = apply(weights, self.inputs) - self.targets
        return error[..., m : error.shape[-2] - m, m : error.shape[-1] - m].abs().mean()


@dataclass(frozen=True)
class Plan:
    """How to adapt: `steps` of an optimiser, or until `seconds` are over.

    "sgd" takes plain steps with the sizes stored in the network (or `rate`), "adam" those of
    Adam. `snapshots` are the step counts whose weights are kept.
    """

    steps: int = 5
    optimizer: OptimizerName = "sgd"
    rate: float | None = None
    seconds: float = math.inf
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Adapted:
    """The weights of the lowest loss, that loss, and what led there.

    `losses` are those before each step and after the last; `best_step` is where `weights` come
    from; `seconds` is what the steps took; `snapshots` maps step counts to weights.
    """

    weights: dict[str, Tensor]
    losses: list[float]
    best_step: int
    seconds: float
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def clock(device: torch.device) -> float:
    """Return seconds for comparing methods: on a CPU those of this process, whatever else runs."""
    return time.process_time() if device.type == "cpu" else time.monotonic()


def son_pair(
    image: Tensor,
    degradation: Degradation,
    *,
    aligned: bool = True,
    rounds: int = 0,
    noise: float = 0.0,
    margin: int = 8,
    generator: torch.Generator | None = None,
) -> Pair:
    """Return the pair (image reduced once more and enlarged again, image).

    `image` (1, 3, H, W); `aligned` and `rounds` as in `network_input`. White Gaussian `noise`
    (standard deviation in [0, 1]) is added to the reduced one. Of a large image only its most
    detailed pieces are used.
    """
    target = crop_to_multiple(image, degradation.scale)
    son = degradation(target)
    if noise:
        draw = torch.randn(son.shape, generator=generator).to(son)
        son = son + noise * draw
    inputs = network_input(son.clamp(0, 1), degradation, aligned, rounds)
    if target.shape[-2] * target.shape[-1] <= CROPS * CROP**2:
        return Pair(inputs, target)
    corners = detailed_corners(target, CROP + 2 * margin, CROPS)
    return Pair(_pieces(inputs, corners, margin), _pieces(target, corners, margin), margin)


def detailed_corners(image: Tensor, side: int, count: int) -> list[tuple[int, int]]:
    """Return the top left corners of the `count` non-overlapping squares with most detail."""
    grey = image.mean(1, keepdim=True)
    slope = F.pad(grey.diff(dim=-1).abs(), (0, 1)) + F.pad(grey.diff(dim=-2).abs(), (0, 0, 0, 1))
    detail = F.avg_pool2d(slope, side)[0, 0]
    best = detail.flatten().topk(min(count, detail.numel())).indices.tolist()
    return [(side * (i // detail.shape[1]), side * (i % detail.shape[1])) for i in best]


def _pieces(image: Tensor, corners: list[tuple[int, int]], margin: int) -> Tensor:
    side = CROP + 2 * margin
    return torch.cat([image[..., y : y + side, x : x + side] for y, x in corners])


def adapt(
    network: Network,
    pair: Pair,
    plan: Plan,
    autocast: AbstractContextManager[object] | None = None,
) -> Adapted:
    """Take gradient steps on the pair from the network's weights; the network stays as it is.

    The step with the lowest loss is returned, so a run that diverges does no harm.
    """
    begin = clock(pair.inputs.device)
    weights = {name: w.detach().clone() for name, w in network.weights().items()}
    losses, best_step, best = [], 0, weights
    snapshots: dict[int, dict[str, Tensor]] = {}
    path = _descend(network, pair, plan, weights, autocast or nullcontext())
    for step, (loss, current) in enumerate(path):
        losses.append(loss)
        if not math.isfinite(loss):
            break
        if loss <= min(losses):
            best_step, best = step, current
        if step in plan.snapshots:
            snapshots[step] = current
        if clock(pair.inputs.device) - begin >= plan.seconds:
            break
    return Adapted(best, losses, best_step, clock(pair.inputs.device) - begin, snapshots)


def _descend(
    network: Network,
    pair: Pair,
    plan: Plan,
    start: dict[str, Tensor],
    autocast: AbstractContextManager[object],
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Yield the loss and a copy of the weights before each step, and after the last."""
    weights = {name: w.clone().requires_grad_() for name, w in start.items()}
    adam = torch.optim.Adam(weights.values(), plan.rate or ADAM_RATE)
    for step in range(plan.steps + 1):
        with torch.enable_grad(), autocast:
            loss = pair.loss(weights)
            gradients = (
                torch.autograd.grad(loss, list(weights.values())) if step < plan.steps else ()
            )
        yield float(loss.detach()), {name: w.detach().clone() for name, w in weights.items()}
        if not gradients:
            return
        if plan.optimizer == "sgd":
            with torch.no_grad():
                plain_step(weights, gradients, plan.rate or network.rates(step))
            continue
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient
        adam.step()


def plain_step(
    weights: dict[str, Tensor], gradients: tuple[Tensor, ...], rates: Tensor | float
) -> None:
    """Move weights in place against their gradients: theta <- theta - a * grad."""
    each = rates if isinstance(rates, Tensor) else [rates] * len(gradients)
    for weight, gradient, rate in zip(weights.values(), gradients, each, strict=True):
        weight -= rate * gradient
