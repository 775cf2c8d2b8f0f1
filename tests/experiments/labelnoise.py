"""Experiments of `labelnoise`: who finds the wrong labels, what the guard is worth, training."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.labelnoise.config import (
    LabelnoiseConfig,
    LabelnoiseTraining,
    MixMatchOptions,
    NetworkOptions,
)
from mlkit.tasks.labelnoise.data import Images, open_images
from mlkit.tasks.labelnoise.fit import fit_pair
from mlkit.tasks.labelnoise.guard import judge
from mlkit.tasks.labelnoise.noise import asymmetric, corrupt, long_tail, symmetric
from mlkit.tasks.labelnoise.score import class_recall, predict
from mlkit.tasks.labelnoise.scoring import out_of_sample, scores, train_plain
from mlkit.tasks.labelnoise.selection import SELECTORS, Selection, select
from mlkit.tasks.labelnoise.signals import Signals, compute

from .__main__ import spread

Array = NDArray[Any]
Noises = tuple[tuple[str, float], ...]
TAIL = (7, 8, 9)
SIZE, IMBALANCE = 16, 0.1  # pixels, smallest over largest class
SHORT = TrainOptions(epochs=8, lr=0.05, schedule="constant", batch_size=128)
SCAN = SHORT.model_copy(update={"schedule": "cosine"})  # as `mlkit labelnoise` trains
NOISES = (("asym", 0.4), ("sym", 0.4))


def _say(*items: Any) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {json.dumps(items)}", file=sys.stderr, flush=True)


def noisy(images: Images, kind: str, rate: float, seed: int, most: int) -> tuple[Images, Array]:
    """Return a long-tailed part of the images with wrong labels, and the true labels.

    `most` caps the largest class before the tail is cut.
    """
    random = np.random.default_rng(seed)
    labels = images.labels.numpy()
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
    return _selection(data, seeds, SHORT)


def selection_scan(data: Path, seeds: int) -> dict[str, Any]:
    """The same after the schedule of `mlkit labelnoise`, which ends in a better network."""
    return _selection(data, seeds, SCAN)


def _selection(data: Path, seeds: int, options: TrainOptions) -> dict[str, Any]:
    train = open_images(data / "cifar10" / "train", SIZE, Silent())
    test = open_images(data / "cifar10" / "test", SIZE, Silent())
    found: dict[str, Any] = {}
    for seed in range(seeds):
        for kind, rate in NOISES:
            part, truth = noisy(train, kind, rate, seed, most=5000)
            runtime = start(RunOptions(seed=seed, device="cpu"))
            model = train_plain(part, "small", options, runtime, Silent())
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


GUARD_NOISES = (("sym", 0.0), ("asym", 0.4), ("sym", 0.4), ("sym", 0.1))
LEAST = LabelnoiseConfig.model_fields["min_evidence"].default


def guard_table(data: Path, seeds: int) -> dict[str, Any]:
    """Flags on clean, lightly and heavily noisy sets: raw TABASCO, cleanlab, and the guard.

    10,213 images, all detectors on the same out-of-sample probabilities (3 folds). "at equal
    recall" is the precision of our ranking at the recall of cleanlab's flags. The guard's
    constants were chosen on the test part of CIFAR-10, of which nothing is used here.
    """
    return _guard_table(data, seeds, GUARD_NOISES, 2500, SCAN)


def guard_small(data: Path, seeds: int) -> dict[str, Any]:
    """The same with 4,084 images and 250 steps per network."""
    options = SCAN.model_copy(update={"steps": 250})
    return _guard_table(data, seeds, GUARD_NOISES, 1000, options)


def _guard_table(
    data: Path, seeds: int, noises: Noises, most: int, options: TrainOptions
) -> dict[str, Any]:
    train = open_images(data / "cifar10" / "train", SIZE, Silent())
    found: dict[str, Any] = {}
    for seed in range(seeds):
        for kind, rate in noises:
            part, truth = noisy(train, kind, rate, 100 + seed, most)
            runtime = start(RunOptions(seed=seed, device="cpu"))
            probs, features, folds = out_of_sample(part, "small", 3, options, runtime, Silent())
            signals = compute(probs, features, part.labels.numpy(), folds)
            table = found.setdefault(f"{kind} {rate}", {})
            agreement = float((signals.predicted == signals.labels).mean())
            _add(table, "network", {"agreement": agreement})
            compare_flags(table, signals, probs, signals.labels != truth)
            _say(seed, kind, rate, _last(table))
    return _spread(found)


def compare_flags(table: dict[str, Any], signals: Signals, probs: Array, wrong: Array) -> None:
    """Add flags, precision and recall of every detector to the table, overall and on the tail."""
    raw = select("tabasco", signals, probs)
    verdict = judge(signals, raw, probs, LEAST)
    peer = ~select("cleanlab", signals, probs).clean
    strict = judge(signals, raw, probs, 0.7)
    flags = {"tabasco": ~raw.clean, "cleanlab": peer, "guarded": verdict.flagged}
    flags["guarded, --min-evidence 0.7"] = strict.flagged
    tail = np.isin(signals.labels, TAIL)
    for name, flagged in flags.items():
        _add(table, name, _detected(flagged, wrong))
        _add(table, f"{name}, tail", _detected(flagged[tail], wrong[tail]))
    if not wrong.any():
        return
    for name, part in (("ranking", wrong | True), ("ranking, tail", tail)):
        recall = float(peer[part & wrong].mean())
        equal = precision_at(verdict.doubt[part], wrong[part], recall)
        _add(
            table,
            name,
            {"precision at equal recall": equal} | _ranking(verdict.doubt[part], wrong[part]),
        )
        _add(table, f"{name}, self-confidence", _ranking(1 - signals.p_given[part], wrong[part]))


def _detected(flagged: Array, wrong: Array) -> dict[str, float]:
    hits = float((flagged & wrong).sum())
    return {
        "flagged": float(flagged.mean()),
        "precision": hits / max(1, int(flagged.sum())),
        "recall": hits / max(1, int(wrong.sum())),
    }


def precision_at(doubt: Array, wrong: Array, recall: float) -> float:
    """Return the precision of the shortest head of the ranking that has this recall."""
    ranked = wrong[np.argsort(-doubt, kind="stable")]
    reached = np.cumsum(ranked) >= recall * ranked.sum() - 1e-9
    return float(ranked[: int(reached.argmax()) + 1].mean())


# Arms of the training comparison, with their selectors.
ARMS = {"plain cross-entropy": "keep", "DivideMix's selection": "gmm-loss", "TABASCO": "tabasco"}
MIXMATCH = MixMatchOptions(warmup_epochs=4)
TRAINING = LabelnoiseTraining(epochs=10, batch_size=64, lr=0.02)


def training(data: Path, seeds: int) -> dict[str, Any]:
    """Balanced and tail accuracy of training: plain, with DivideMix's split, with TABASCO's.

    CIFAR-10 with at most 1,500 images per class, imbalance 0.1, 16 pixels, 4 epochs of warm-up
    and 6 of MixMatch; the last weights, no choice by validation.
    """
    train = open_images(data / "cifar10" / "train", SIZE, Silent())
    test = open_images(data / "cifar10" / "test", SIZE, Silent())
    found: dict[str, Any] = {}
    for seed in range(seeds):
        for kind, rate in NOISES:
            part, _ = noisy(train, kind, rate, 200 + seed, most=1500)
            for name, selector in ARMS.items():
                runtime = start(RunOptions(seed=seed, device="cpu"))
                begin = time.process_time()
                model, *_ = fit_pair(part, NetworkOptions(), MIXMATCH, selector, TRAINING, runtime)
                recall = class_recall(predict(model, test, runtime), test)
                scores_ = {
                    "balanced": 100 * float(recall.mean()),
                    "tail": 100 * float(recall[list(TAIL)].mean()),
                    "cpu s": time.process_time() - begin,
                }
                _add(found.setdefault(kind, {}), name, scores_)
                _say(seed, kind, name, {k: round(v, 2) for k, v in scores_.items()})
    return _spread(found)
