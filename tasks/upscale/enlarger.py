"""Enlarging one image by one method, once its degradation is known: what all verbs share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.runtime import Runtime, stream
from ...core.tiles import in_tiles
from .adaptation import Adapted, OptimizerName, Plan, adapt, clock, son_pair
from .backprojection import back_project, network_input
from .checkpoint import Start, embedded, load_start, random_start, to_device
from .config import AdaptOptions, Method
from .degradation import Degradation, enlarge, turned, turned_back
from .kernels import is_symmetric
from .model import Weights, apply
from .scratch import GAIN, train_from_scratch

IBP_ROUNDS, ZSSR_ROUNDS, ROUNDS = 20, 2, 10
NETWORKS = ("mzsr", "joint", "pretrained")


@dataclass(frozen=True)
class Request:
    """What to do with an image beyond its degradation; see the options of the same names.

    `known` is False for an estimated kernel. `snapshots` are step counts to keep results of.
    """

    method: Method = "mzsr"
    steps: int = 5
    known: bool = True
    noise: float = 0.0
    ensemble: bool = False
    seconds: float = math.inf
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Enlarged:
    """A large image (1, 3, s H, s W) in [0, 1], what there is to say, and snapshots by steps."""

    image: Tensor
    record: dict[str, Any]
    snapshots: dict[int, Tensor] = field(default_factory=dict)


class Enlarger:
    """The weights and options of one run, ready for any number of images."""

    def __init__(self, config: AdaptOptions, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        own = load_start(config.weights) if config.weights else None
        self._own = own and to_device(own, runtime.device)

    def start(self, method: str) -> Start:
        """Return where a method starts; --weights stand in for the embedded "mzsr"."""
        if method == "zssr":
            return random_start(self.start("mzsr"), self.runtime.seed, GAIN)
        if method == "mzsr" and self._own is not None:
            return self._own
        name = method if method in NETWORKS else "mzsr"
        return to_device(embedded(name), self.runtime.device)

    def enlarge(self, low: Tensor, degradation: Degradation, request: Request) -> Enlarged:
        """Return the large image of a small one (1, 3, H, W) in [0, 1].

        Raises `UsageError` for an ensemble where turns would be wrong.
        """
        _check_ensemble(degradation, request)
        low = low.to(self.runtime.device)
        begin = clock(low.device)
        scale, sampling = degradation.scale, degradation.sampling
        if request.method == "bicubic":
            image, record = enlarge(low, scale).clamp(0, 1), {}
        elif request.method == "ibp":
            first = enlarge(low, scale, sampling).clamp(0, 1)
            image = back_project(first, low, degradation, IBP_ROUNDS)
            record = {"back_projections": IBP_ROUNDS}
        else:
            return self._by_network(low, degradation, request, begin)
        return Enlarged(image, {**record, "seconds": clock(low.device) - begin})

    def _by_network(
        self, low: Tensor, degradation: Degradation, request: Request, begin: float
    ) -> Enlarged:
        start = self.start(request.method)
        adapted = self._adapt(start, low, degradation, request)
        rounds = self._rounds(request)

        def finish(weights: Weights) -> Tensor:
            image = self._predict(start, weights, low, degradation, request.ensemble)
            return back_project(image, low, degradation, rounds, start.aligned)

        image = finish(adapted.weights)
        seconds = clock(low.device) - begin
        record = {
            "steps": len(adapted.losses) - (request.method != "zssr"),
            "best_step": adapted.best_step,
            "loss_before": adapted.losses[0],
            "loss_after": min(adapted.losses),
            "back_projections": rounds,
            "adaptation_seconds": adapted.seconds,
            "seconds": seconds,
        }
        shown = {step: finish(weights) for step, weights in adapted.snapshots.items()}
        return Enlarged(image, record, shown)

    def _rounds(self, request: Request) -> int:
        """Return how often to back-project: never where kernel or pixels cannot be trusted."""
        if self.config.back_project is not None:
            return self.config.back_project
        if not request.known or request.noise:
            return 0
        return ZSSR_ROUNDS if request.method == "zssr" else ROUNDS

    def _adapt(
        self, start: Start, low: Tensor, degradation: Degradation, request: Request
    ) -> Adapted:
        pair = son_pair(
            low,
            degradation,
            aligned=start.aligned,
            rounds=start.rounds,
            noise=request.noise / 255,
            margin=start.network.reach,
            generator=stream(self.runtime.seed, 13),
        )
        if request.method == "zssr":
            generator = stream(self.runtime.seed, 14)
            return train_from_scratch(
                start.network, pair, request.steps, request.seconds, generator
            )
        # Plain steps are for a start that was meta-trained for them, and knows their sizes.
        learned: OptimizerName = "sgd" if start.objective == "meta" else "adam"
        optimizer = learned if self.config.optimizer == "auto" else self.config.optimizer
        plan = Plan(request.steps, optimizer, self.config.rate, request.seconds, request.snapshots)
        return adapt(start.network, pair, plan, self.runtime.autocast())

    @torch.no_grad()
    def _predict(
        self,
        start: Start,
        weights: Weights,
        low: Tensor,
        degradation: Degradation,
        ensemble: bool,
    ) -> Tensor:
        x = network_input(low, degradation, start.aligned, start.rounds)

        def run(piece: Tensor) -> Tensor:
            with self.runtime.autocast():
                return apply(weights, piece).float()

        def whole(image: Tensor) -> Tensor:
            return in_tiles(image, self.config.tile, start.network.reach, run)

        if not ensemble:
            return whole(x).clamp(0, 1)
        turns = [turned_back(whole(turned(x, turn)), turn) for turn in range(8)]
        return torch.stack(turns).mean(0).clamp(0, 1)


def _check_ensemble(degradation: Degradation, request: Request) -> None:
    if not request.ensemble:
        return
    if degradation.sampling != "bicubic" or not is_symmetric(degradation.kernel):
        raise UsageError(
            "--ensemble needs --sampling bicubic and a kernel that turns leave as it is",
            "with any other blur the eight results disagree on where things are",
        )
