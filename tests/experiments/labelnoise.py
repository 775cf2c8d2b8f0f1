"""Experiments of `labelnoise`: who finds the wrong labels, what the guard is worth, training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.labelnoise.data import Images, open_images
from mlkit.tasks.labelnoise.noise import asymmetric, corrupt, long_tail, symmetric
from mlkit.tasks.labelnoise.scoring import out_of_sample, scores, train_plain
from mlkit.tasks.labelnoise.selection import SELECTORS, Selection, select
from mlkit.tasks.labelnoise.signals import Signals, compute

from .__main__ import spread

Array = NDArray[Any]
TAIL = (7, 8, 9)
SIZE, IMBALANCE = 16, 0.1
SHORT = TrainOptions(epochs=6, lr=0.05, schedule="constant", batch_size=128)
NOISES = (("sym", 0.4), ("asym", 0.4))


def _say(*items: Any) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {json.dumps(items)}", file=sys.stderr, flush=True)


def noisy(images: Images, kind: str, rate: float, seed: int, most: int = 0) -> tuple[Images, Array]:
    """Return a long-tailed part of the images with wrong labels, and the true labels.

    `most` caps the largest class before the tail is cut.
    """
    random = np.random.default_rng(seed)
    labels = images.labels.numpy()
    if most:
        places = [random.permutation(np.flatnonzero(labels == k))[:most] for k in range(10)]
        images = images.take(torch.from_numpy(np.sort(np.concatenate(places))))
        labels = images.labels.numpy()
    kept = long_tail(labels, 10, IMBALANCE, random)
    truth = labels[kept]
    matrix = symmetric(10, rate) if kind == "sym" else asymmetric(10, rate, random)
    given = torch.from_numpy(corrupt(truth, matrix, random))
    part = images.take(torch.from_numpy(kept))
    return Images(part.levels, given, part.classes, part.names), truth


def selection(data: Path, seeds: int) -> dict[str, Any]:
    """Table of section 8b: every selector on one warm-up network, in-sample, without training."""
    train = open_images(data / "cifar10" / "train", SIZE, Silent())
    test = open_images(data / "cifar10" / "test", SIZE, Silent())
    found: dict[str, Any] = {}
    for seed in range(seeds):
        for kind, rate in NOISES:
            part, truth = noisy(train, kind, rate, seed)
            runtime = start(RunOptions(seed=seed, device="cpu"))
            model = train_plain(part, "small", SHORT, runtime, Silent())
            probs, features = scores(model, part.levels, runtime)
            right = scores(model, test.levels, runtime)[0].argmax(1) == test.labels.numpy()
            table = found.setdefault(kind, {})
            _add(table, "network", {"test accuracy": float(right.mean())})
            signals = compute(probs, features, part.labels.numpy())
            for name in (*SELECTORS, "cleanlab"):
                chosen = select(name, signals, probs)
                _add(table, name, _quality(chosen, signals, truth))
            for name, ranking in rankings(signals).items():
                _add(table, f"ranking {name}", _ranking(ranking, signals.labels != truth))
            _say(seed, kind, float(right.mean()), _last(table))
    return _spread(found)


def rankings(signals: Signals) -> dict[str, Array]:
    """Return the usual rankings by doubt, beside TABASCO's weight."""
    return {
        "tabasco": 1 - SELECTORS["tabasco"](signals).weight,
        "self-confidence": 1 - signals.p_given,
        "margin": signals.p_max - signals.p_given,
    }


def _quality(chosen: Selection, signals: Signals, truth: Array) -> dict[str, float]:
    """Return accuracy and F1 of "clean", overall and on the observed tail, and F1 of "wrong"."""
    clean = signals.labels == truth
    tail = np.isin(signals.labels, TAIL)
    found = {"accuracy": float((chosen.clean == clean).mean()), "F1": f1(chosen.clean, clean)}
    found["tail accuracy"] = float((chosen.clean == clean)[tail].mean())
    found["tail F1"] = f1(chosen.clean[tail], clean[tail])
    found["F1 of wrong"] = f1(~chosen.clean, ~clean)
    return found


def f1(chosen: Array, wanted: Array) -> float:
    """Return the harmonic mean of precision and recall."""
    return float(2 * (chosen & wanted).sum() / max(1, chosen.sum() + wanted.sum()))


def _ranking(doubt: Array, wrong: Array) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "AUROC": float(roc_auc_score(wrong, doubt)),
        "AP": float(average_precision_score(wrong, doubt)),
    }


def _add(table: dict[str, Any], name: str, values: dict[str, float]) -> None:
    for key, value in values.items():
        table.setdefault(name, {}).setdefault(key, []).append(value)


def _last(table: dict[str, Any]) -> dict[str, Any]:
    return {name: {k: round(v[-1], 3) for k, v in row.items()} for name, row in table.items()}


def _spread(found: dict[str, Any]) -> dict[str, Any]:
    return {
        part: {
            name: {key: spread(values) for key, values in row.items()}
            for name, row in table.items()
        }
        for part, table in found.items()
    }
