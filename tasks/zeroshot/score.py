"""Scoring a model and every baseline on labelled photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.files import check_writable
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import start
from .checkpoint import Trained
from .classes import candidates
from .closure import Array
from .config import EvalConfig
from .data import open_photos, read_features
from .metrics import KS, hierarchical_precision, hits, ranks
from .override import open_model
from .scoring import BASELINES, final_scores, make_scorer, with_seen

Scores = dict[str, dict[str, float]]


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score photos of unseen classes by the ensemble, the network and the baselines.

    Raises `DataError` when no photo shows a candidate.
    """
    progress = progress or Silent()
    if config.plot is not None:
        check_writable(config.plot)
    runtime = start(run_options or RunOptions())
    trained = open_model(config)
    photos = open_photos(config.data, trained.graph.taxonomy)
    nodes = _candidates(config, trained, photos.nodes)
    inside = torch.from_numpy(np.isin(photos.nodes.numpy(), nodes))
    photos = photos.at(inside.nonzero()[:, 0])
    if not len(photos):
        raise DataError(f"no photo of {config.data} shows one of the {len(nodes)} candidates")
    outside = int((~inside).sum())
    if outside:
        progress.warn(f"{outside} photos of classes that are no candidates are left out")
    features, kept, failures = read_features(
        photos.paths, trained.backbone, runtime, config.batch_size, progress
    )
    truth = photos.at(kept).nodes
    found = {"unseen": measure(trained, config, nodes, features, truth)}
    if config.generalised:
        everything = np.array(with_seen(nodes.tolist(), trained.graph))
        for rows in ("predicted", "true"):
            options = config.model_copy(update={"seen_rows": rows})
            found[f"generalised, {rows} seen rows"] = measure(
                trained, options, everything, features, truth
            )
    return _result(config, trained, nodes, truth, found, failures)


def _candidates(config: EvalConfig, trained: Trained, shown: Tensor) -> Array:
    if config.classes == "photos":
        return shown.unique().numpy()
    return np.array(candidates(config.classes, trained.graph.taxonomy).places)


def measure(
    trained: Trained, config: EvalConfig, nodes: Array, features: Tensor, truth: Tensor
) -> Scores:
    """Return the metrics of the ensemble, the network and the baselines for candidate `nodes`.

    `features` (n, P) with a 1 behind, `truth` (n,) nodes, all of them among the candidates.
    """
    scorer = make_scorer(trained, config, nodes)
    order = np.argsort(nodes)
    places = torch.from_numpy(order[np.searchsorted(nodes, truth.numpy(), sorter=order)])
    found: Scores = {}
    for by in ("ensemble", "graph", *BASELINES):
        scores = final_scores(scorer, trained, config, by, features)
        name = trained.options.variant if by == "graph" else by
        found[name] = {
            **hits(ranks(scores, places), places),
            **hierarchical_precision(scores, places, trained.graph.pairs, nodes),
        }
    return found


def _result(
    config: EvalConfig,
    trained: Trained,
    nodes: Array,
    truth: Tensor,
    found: dict[str, Scores],
    failures: dict[str, str],
) -> Result:
    unseen = np.setdiff1d(nodes, trained.graph.seen)
    metrics: dict[str, Any] = {
        "photos": len(truth),
        "classes": len(truth.unique()),
        "candidates": len(nodes),
        "unseen_candidates": len(unseen),
        "mixture": vars(trained.mixture),
        **found,
    }
    columns = ("method", *(f"hit@{k}" for k in KS), "class@1", "hp@5", "hp@20")
    tables = tuple(
        Table(title, columns, [
            (name, *(f"{100 * row[key]:.1f}" for key in columns[1:])) for name, row in part.items()
        ])
        for title, part in found.items()
    )  # fmt: skip
    outputs = {}
    if config.plot is not None:
        from .pictures import draw_hits

        draw_hits(config.plot, found)
        outputs["picture"] = str(config.plot)
    return Result(
        inputs={"data": str(config.data), "model": trained.name},
        outputs=outputs,
        metrics=metrics,
        tables=tables,
        notes=(
            f"{len(truth)} photos of {metrics['classes']} classes, {len(nodes)} candidates; "
            "percent; class@1: mean over classes; hp: hierarchical precision",
        ),
        failures=failures,
    )
