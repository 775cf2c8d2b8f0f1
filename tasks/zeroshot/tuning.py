"""Choosing the mixture and the penalty of seen classes on photos of classes held out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.progress import Progress
from ...core.runtime import Runtime, stream
from .backbone import Backbone
from .checkpoint import Mixture, predict_rows
from .closure import Array
from .config import NetworkOptions
from .data import Photos, read_features
from .ensemble import choose_penalty, choose_weights, mix, standardise
from .graph import Graph
from .metrics import ranks
from .model import RowNetwork
from .scoring import Scorer

SHARE = 0.2  # of the seen classes, held out
LEAST = 20  # photos of held-out classes, below which nothing is chosen
Refit = Callable[[Graph, Tensor], RowNetwork]


def tune(
    graph: Graph,
    backbone: Backbone,
    photos: Photos,
    options: NetworkOptions,
    refit: Refit,
    runtime: Runtime,
    progress: Progress,
) -> tuple[Mixture, dict[str, float]]:
    """Return the mixture that is best on a fifth of the seen classes, and its hit rates there.

    A second network is fitted without those classes. Raises `DataError` for too few photos.
    """
    order = torch.randperm(len(graph.seen), generator=stream(runtime.seed, 7)).numpy()
    held = np.sort(order[: int(SHARE * len(order))])
    features, kept, _ = read_features(photos.paths, backbone, runtime, 32, progress)
    nodes = photos.nodes[torch.tensor(kept, dtype=torch.int64)].numpy()
    return choose(graph, backbone.rows, backbone.targets, held, features, nodes, options, refit)


def choose(
    graph: Graph,
    classifier: Tensor,
    targets: Tensor,
    held: Array,
    features: Tensor,
    nodes: Array,
    options: NetworkOptions,
    refit: Refit,
) -> tuple[Mixture, dict[str, float]]:
    """Return the mixture for seen classes `held` (places in `graph.seen`) that count as unseen.

    `features` (n, P) with a 1 behind are of photos of seen classes, whose nodes are `nodes` (n,).
    """
    rest = np.delete(np.arange(len(graph.seen)), held)
    part = graph.without(held)
    network = refit(part, targets[rest])
    unseen = graph.seen[held]

    def scorer(chosen: Array) -> Scorer:
        predicted = predict_rows(network, part, options, chosen)
        return Scorer(part, classifier[rest], targets[rest], chosen, predicted)

    inside = np.isin(nodes, unseen)
    if inside.sum() < LEAST:
        raise DataError(
            f"only {inside.sum()} photos show one of the {len(held)} held-out classes",
            f"give at least {LEAST}, or leave --images out",
        )
    scores = scorer(unseen).parts(features[torch.from_numpy(inside)])
    truth = _places(nodes[inside], unseen)
    weights = choose_weights(scores, truth)
    rank = ranks(mix(scores, weights), truth)
    found = {f"held_out_hit@{k}": float((rank <= k).double().mean()) for k in (1, 5)}
    known = np.isin(nodes, graph.seen)
    everything = np.concatenate((unseen, part.seen))
    competing = scorer(everything)
    mixed = standardise(mix(competing.parts(features[torch.from_numpy(known)]), weights))
    penalty = choose_penalty(mixed, _places(nodes[known], everything), competing.seen)
    return Mixture(weights, penalty, True), found


def _places(nodes: Array, among: Array) -> Tensor:
    """Return the place (n,) of each node in `among`."""
    order = np.argsort(among)
    return torch.from_numpy(order[np.searchsorted(among, nodes, sorter=order)])
