"""Experiments of `recommend`: variants side by side, the dial, and what helps several interests."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.recommend.aggregate import Labels, recommend_lists
from mlkit.tasks.recommend.config import (
    SINGLE,
    ColumnOptions,
    LossOptions,
    ModelOptions,
    RecommendTrainOptions,
    SplitOptions,
)
from mlkit.tasks.recommend.data import Sequences, read_items, read_log
from mlkit.tasks.recommend.fit import fit_model
from mlkit.tasks.recommend.metrics import hit_rate, hits, recall
from mlkit.tasks.recommend.model import Popular, Recommender
from mlkit.tasks.recommend.score import Protocol, batches_of_interests, score_users
from mlkit.tasks.recommend.split import Held, Split, make_split

from .__main__ import spread

DIAL = (0.0, 0.05, 0.25, 1.0)
# Method: (network, loss). The first block is the table of the paper with the best remedy, the
# second what else may help several interests.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SA": ({}, {}),
    "SA, K = 1": ({"interests": 1}, {}),
    "SA, readout max": ({}, {"readout": "max"}),
    "DR, init 0.1": ({"variant": "dr", "routing_init": 0.1}, {}),
    "DR": ({"variant": "dr"}, {}),
    "DNN": ({"variant": "dnn"}, {}),
    "MIND": ({"variant": "mind"}, {}),
    "GRU4Rec": ({"variant": "gru4rec"}, {}),
}
REMEDIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SA, collapse weight 0.1": ({}, {"collapse_weight": 0.1}),
    "SA, 40 negatives": ({}, {"negatives": 40}),
    "DR, init 0.1, readout max": ({"variant": "dr", "routing_init": 0.1}, {"readout": "max"}),
    "SA, readout soft": ({}, {"readout": "soft"}),
    "SA, K = 1, 40 negatives": ({"interests": 1}, {"negatives": 40}),
    "DR, init 0.1, K = 1": ({"variant": "dr", "routing_init": 0.1, "interests": 1}, {}),
    "SA, hard negatives 1": ({}, {"hard_negatives": 1.0}),
    "SA, uniform negatives": ({}, {"loss": "uniform"}),
}


class Set(NamedTuple):
    """A data set of the experiment and its budget; small sets change their split with the seed."""

    log: str
    items: str
    width: int
    steps: int
    every: int
    resplit: bool


# Three times the paper's learning rate (DR keeps its own), so that few steps go far: at 1e-3
# the same accuracy takes two to three times as many.
LR = 3e-3
SETS = {
    "amazon-beauty": Set("interactions.csv", "items.csv", 20, 800, 200, False),
    "lastfm": Set("interactions.csv", "items.csv", 50, 300, 50, True),
    "movielens-small": Set("ratings.csv", "movies.csv", 50, 300, 50, True),
}


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def table(data: Path, seeds: int) -> dict[str, Any]:
    """Table of section 8b: all variants, MostPopular and implicit ALS on three sets."""
    return _run(data, seeds, VARIANTS, peers=True)


def remedies(data: Path, seeds: int) -> dict[str, Any]:
    """What may help several interests, on the same three sets."""
    return _run(data, seeds, REMEDIES, peers=False)


def _run(data: Path, seeds: int, methods: dict[str, Any], peers: bool) -> dict[str, Any]:
    values: dict[str, Any] = {name: {} for name in SETS}
    for seed in range(seeds):
        for name, chosen in SETS.items():
            split, labels = _load(data / "recommend" / name, chosen, seed)
            arms: dict[str, Callable[[], dict[str, float]]] = {}
            if peers:
                popular = Popular(split.counts)
                arms["MostPopular"] = partial(_scores, popular, split, 1, labels)
                arms["implicit ALS"] = partial(_als, split, labels, seed)
            for method, (network, loss) in methods.items():
                arms[method] = partial(_train, split, labels, chosen, seed, network, loss)
            for method, arm in arms.items():
                begin = time.process_time()
                found = arm()
                found["cpu s"] = time.process_time() - begin
                for metric, value in found.items():
                    values[name].setdefault(method, {}).setdefault(metric, []).append(value)
                shown = {metric: round(value, 3) for metric, value in found.items()}
                _say(json.dumps([seed, name, method, shown]))
    return {
        name: {
            method: {metric: spread(found) for metric, found in metrics.items()}
            for method, metrics in methods_.items()
        }
        for name, methods_ in values.items()
    }


def _load(folder: Path, chosen: Set, seed: int) -> tuple[Split, Labels]:
    log = read_log(folder / chosen.log, ColumnOptions())
    split_seed = 1230 + seed if chosen.resplit else 1230
    split = make_split(log, SplitOptions(split_seed=split_seed))
    items = read_items(folder / chosen.items, split.names, ColumnOptions())
    return split, Labels(items.categories("first"))


def _train(
    split: Split,
    labels: Labels,
    chosen: Set,
    seed: int,
    network: dict[str, Any],
    loss: dict[str, Any],
) -> dict[str, float]:
    """Train with the weights of the best validation R@50, then score the test users."""
    lr = 0.0 if network.get("variant") == "dr" else LR
    options = RecommendTrainOptions(steps=chosen.steps, save_every=chosen.every, lr=lr, patience=0)
    model_options = ModelOptions(max_history=chosen.width, **network)
    runtime = start(RunOptions(seed=seed, device="cpu"))
    model, fitted = fit_model(split, model_options, LossOptions(**loss), options, runtime)
    one = model_options.interests == 1 or model_options.variant in SINGLE
    dial = (0.0,) if one and model_options.variant != "sa" else DIAL
    scores = _scores(model, split, chosen.width, labels, dial)
    assert isinstance(model, Recommender)
    scores |= {"best step": fitted.best_step, "valid recall@50": 100 * fitted.best}
    return scores if one else scores | usage(model, split, chosen.width)


def _scores(
    model: Any, split: Split, width: int, labels: Labels, dial: tuple[float, ...] = (0.0,)
) -> dict[str, float]:
    """Return means over the test users in percent; "dial 0.25 recall@50" above lambda 0."""
    plain = score_users(model, split.test, width, labels, Protocol())[0.0]
    found = {name: 100 * float(values.mean()) for name, values in plain.items()}
    protocol = Protocol(lengths=(50,), dial=dial)
    if any(dial):
        for value, metrics in score_users(model, split.test, width, labels, protocol).items():
            for name in ("recall@50", "diversity@50") if value else ():
                found[f"dial {value:g} {name}"] = 100 * float(metrics[name].mean())
    return found


def usage(model: Recommender, split: Split, width: int) -> dict[str, float]:
    """How the interests are used: by the targets, by the lists, and with an oracle's choice.

    "effective" numbers are exponentials of entropies: how many interests are in use. "oracle
    recall@50" ranks with the one interest that is nearest to each user's first target: what a
    perfect choice among the interests would give.
    """
    histories, targets = split.test.histories, split.test.targets
    first = targets.items[targets.starts[:-1]].long()
    used, proposing, oracle = [], [], []
    for users, interests in batches_of_interests(model, histories, width, 256):
        vectors = model.item_vectors[first[users]]
        nearest = torch.einsum("bkd,bd->bk", interests, vectors).argmax(1)
        used.append(nearest)
        lists = recommend_lists(interests, model.item_vectors, 50)
        proposing.append(lists.interests.flatten())
        alone = interests[torch.arange(len(users)), nearest][:, None]
        best = recommend_lists(alone, model.item_vectors, 50).items
        part = targets.take(users)
        oracle.append(recall(hits(best, part), part, "sets"))
    return {
        "effective interests of targets": _effective(torch.cat(used)),
        "effective interests of lists": _effective(torch.cat(proposing)),
        "oracle recall@50": 100 * float(torch.cat(oracle).mean()),
    }


def _effective(chosen: Tensor) -> float:
    share = torch.bincount(chosen).double() / len(chosen)
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


def _als(split: Split, labels: Labels, seed: int) -> dict[str, float]:
    """Implicit-feedback ALS (Hu, Koren, Volinsky 2008) of the `implicit` package, d = 64.

    Test users are folded in from their histories; the confidence alpha is chosen on the
    validation users.
    """
    from implicit.als import AlternatingLeastSquares

    best, chosen = -1.0, None
    for alpha in (1.0, 10.0):
        als = AlternatingLeastSquares(
            factors=64, alpha=alpha, iterations=15, num_threads=1, random_state=seed
        )
        als.fit(_matrix(split.train, len(split.names)), show_progress=False)
        score = _fold_in(als, split.valid, labels, len(split.names))["recall@50"]
        if score > best:
            best, chosen = score, als
    return _fold_in(chosen, split.test, labels, len(split.names))


def _matrix(sequences: Sequences, rows: int) -> Any:
    ones = np.ones(len(sequences.items), dtype=np.float32)
    shape = (len(sequences), rows)
    # scipy sorts in place: the order of the sequences must survive it.
    items, starts = sequences.items.numpy().copy(), sequences.starts.numpy()
    matrix = csr_matrix((ones, items, starts), shape=shape)
    matrix.sum_duplicates()
    return matrix


def _fold_in(als: Any, held: Held, labels: Labels, rows: int) -> dict[str, float]:
    seen = _matrix(held.histories, rows)
    lists, _ = als.recommend(
        np.arange(len(held)), seen, N=50, filter_already_liked_items=False, recalculate_user=True
    )
    items = torch.from_numpy(lists.astype(np.int64))
    scores = {}
    for length in (20, 50):
        found = hits(items[:, :length], held.targets)
        scores[f"recall@{length}"] = recall(found, held.targets, "sets")
        scores[f"hit@{length}"] = hit_rate(found)
        scores[f"diversity@{length}"] = labels.diversity(items[:, :length])
    return {name: 100 * float(value.mean()) for name, value in scores.items()}
