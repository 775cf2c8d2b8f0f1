"""Scoring: recall, hit rate, NDCG and diversity over the dial, MostPopular beside the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import CheckpointError, DataError, UsageError
from ...core.files import check_writable, sha256
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_figure
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from .aggregate import Labels, candidates, recommend_lists
from .checkpoint import LEAST_OVERLAP, Trained, labels_of, open_trained
from .config import EvalConfig
from .data import Log, Sequences, read_items, read_log
from .losses import mean_cosine
from .metrics import NDCG_NAMES, Ndcg, hit_rate, hits, ndcg, recall
from .model import AnyModel, Popular
from .pictures import dial_plot
from .split import Held, filter_rare, make_split

METRICS = ("recall", "hit", "ndcg", "diversity")
SHORT = {"recall": "R", "hit": "HR", "ndcg": "NDCG", "diversity": "Div"}


@dataclass(frozen=True)
class Protocol:
    """How lists are scored: lengths N, values of the dial, and the reading of each metric."""

    lengths: Sequence[int] = (20, 50)
    dial: Sequence[float] = (0.0,)
    ndcg: Ndcg = "ideal"
    denominator: Literal["sets", "list"] = "sets"
    exclude_seen: bool = False
    batch: int = 256


@torch.no_grad()
def batches_of_interests(
    model: AnyModel, histories: Sequences, width: int, batch: int, runtime: Runtime | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (users, interests (n, K, d) float32) of all sequences, `batch` users at a time.

    The model runs in the precision of `runtime`.
    """
    device = model.item_vectors.device
    for begin in range(0, len(histories), batch):
        users = torch.arange(begin, min(begin + batch, len(histories)))
        with runtime.autocast() if runtime is not None else nullcontext():
            interests = model(histories.last(width, users).to(device))
        yield users, interests.float()


def seen_pairs(histories: Sequences, users: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pairs (place in `users`, item) of everything that these users have touched."""
    part = histories.take(users)
    rows = torch.arange(len(users)).repeat_interleave(part.lengths)
    return rows.to(device), part.items.long().to(device)


def score_users(
    model: AnyModel,
    held: Held,
    width: int,
    labels: Labels | None,
    protocol: Protocol,
    runtime: Runtime | None = None,
) -> dict[float, dict[str, Tensor]]:
    """Return for each value of the dial the metrics of every user, float64 (users,) each.

    `labels` and the results are on the CPU, the model where it is. Without `labels` the dial
    has no effect and there is no diversity.
    """
    found: dict[float, dict[str, list[Tensor]]] = {dial: {} for dial in protocol.dial}
    batches = batches_of_interests(model, held.histories, width, protocol.batch, runtime)
    for users, interests in batches:
        targets = held.targets.take(users)
        exclude = None
        if protocol.exclude_seen:
            exclude = seen_pairs(held.histories, users, interests.device)
        lists = _batch_lists(interests, model.item_vectors, labels, protocol, exclude)
        for dial, length, items in lists:
            for name, value in _metrics(items, targets, labels, protocol).items():
                found[dial].setdefault(f"{name}@{length}", []).append(value)
        if interests.shape[1] > 1:
            for values in found.values():
                values.setdefault("cosine", []).append(mean_cosine(interests).double().cpu())
    return {
        dial: {name: torch.cat(parts) for name, parts in values.items()}
        for dial, values in found.items()
    }


def _batch_lists(
    interests: Tensor,
    vectors: Tensor,
    labels: Labels | None,
    protocol: Protocol,
    exclude: tuple[Tensor, Tensor] | None,
) -> Iterator[tuple[float, int, Tensor]]:
    """Yield (dial, length, lists (U, length)); what all values of the dial share is done once."""
    longest = max(protocol.lengths)
    there = Labels(labels.values.to(vectors.device)) if labels is not None else None
    best = recommend_lists(interests, vectors, longest, exclude=exclude).items.cpu()
    for length in protocol.lengths:
        merging = labels is not None and any(protocol.dial)
        proposed = candidates(interests, vectors, length, exclude) if merging else None
        for dial in protocol.dial:
            if dial == 0 or proposed is None or there is None:
                yield dial, length, best[:, :length]
            else:
                yield dial, length, proposed.merge(length, dial, there).items.cpu()


def _metrics(
    lists: Tensor, targets: Sequences, labels: Labels | None, protocol: Protocol
) -> dict[str, Tensor]:
    found = hits(lists, targets)
    scores = {
        "recall": recall(found, targets, protocol.denominator),
        "hit": hit_rate(found),
        "ndcg": ndcg(lists, targets, protocol.ndcg),
    }
    return scores if labels is None else {**scores, "diversity": labels.diversity(lists)}


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score trained models on the held-out users of a log, MostPopular beside them.

    Raises `DataError` when the log has no such users, `UsageError` for a dial without
    categories, `CheckpointError` when model and log do not belong together.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    if config.plot is not None:
        check_writable(config.plot)
    log = read_log(config.log, config)
    protocol = Protocol(
        config.lengths,
        config.dial,
        config.ndcg,
        config.recall_denominator,
        config.exclude_seen,
        config.batch_size,
    )
    found: dict[str, dict[float, dict[str, Tensor]]] = {}
    digest = "" if str(config.log) == "-" else sha256(config.log)
    for path in config.weights:
        trained = open_trained(path, runtime.device)
        if config.part != "all" and trained.content.get("log") != digest:
            progress.warn(f"{path} was trained on another log: it may know these users already")
        held = _held(log, trained, config.part)
        labels = _labels(config, trained)
        popular = Popular(trained.counts).to(runtime.device)
        width = trained.options.max_history
        if "MostPopular" not in found:
            plain = dataclasses.replace(protocol, dial=(0.0,))
            found["MostPopular"] = score_users(popular, held, 1, labels, plain)
        with progress.task(f"scoring {path}", 1) as bar:
            found[str(path)] = score_users(trained.model, held, width, labels, protocol, runtime)
            bar.advance()
    return _result(config, found, len(held))


def _held(log: Log, trained: Trained, part: str) -> Held:
    """Return users of the log to test on, in the numbers of the model.

    Targets that the model does not know can never be hit: they get the number n + 1.
    """
    if part == "all":
        sequences, users = filter_rare(log, trained.split.min_count)
        histories, targets = sequences.cut((sequences.lengths.double() * 0.8).long())
        names, held = log.items, Held(users, histories, targets)
    else:
        split = make_split(log, trained.split)
        names, held = split.names, getattr(split, part)
    if len(held) == 0:
        raise DataError(
            f"{log.name}: the model's training left no users for {part}",
            "pass --part all, or train with --test 0.1",
        )
    number = trained.items.numbers(names).int()
    known = number[held.histories.items.long()]
    if float((known > 0).double().mean()) < LEAST_OVERLAP:
        raise CheckpointError(
            f"{trained.name} knows less than half of the histories' items in {log.name}",
            f"train on this log: mlkit train recommend {log.name}",
        )
    histories = Sequences(known, held.histories.starts).keep(known > 0)
    aims = number[held.targets.items.long()]
    aims = aims.where(aims > 0, len(trained.items) + 1)
    return Held(held.users, histories, Sequences(aims, held.targets.starts))


def _labels(config: EvalConfig, trained: Trained) -> Labels | None:
    items = trained.items
    if config.items is not None:
        items = read_items(config.items, items.names, config)
    labels = labels_of(items, config.category)
    if labels is None and (any(config.dial) or config.plot is not None):
        raise UsageError(
            f"{'--diversity' if any(config.dial) else '--plot'} needs categories",
            "give --items FILE with a category column",
        )
    return labels


def _result(
    config: EvalConfig, found: dict[str, dict[float, dict[str, Tensor]]], users: int
) -> Result:
    metrics: dict[str, Any] = {"users": users, "ndcg": config.ndcg}
    for model, dials in found.items():
        metrics[model] = {f"{dial:g}": _statistics(values) for dial, values in dials.items()}
    longest = max(config.lengths)
    first = metrics[str(config.weights[0])][f"{config.dial[0]:g}"]
    error = 100 * first["standard_error"][f"recall@{longest}"]
    outputs = {}
    if config.plot is not None:
        write_figure(config.plot, dial_plot(_curves(metrics, found, longest), longest))
        outputs["plot"] = str(config.plot)
    return Result(
        inputs={"log": str(config.log), "part": config.part},
        outputs=outputs,
        metrics=metrics,
        tables=tuple(_table(config, metrics, found, users, length) for length in config.lengths),
        notes=(
            f"NDCG: {NDCG_NAMES[config.ndcg]}; recall over {config.recall_denominator}; "
            f"standard error of R@{longest} about {error:.1f} points",
        ),
    )


def _statistics(values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return means over users and their standard errors."""
    return {
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "standard_error": {
            name: float(v.std(correction=0) / len(v) ** 0.5) for name, v in values.items()
        },
    }


def _table(
    config: EvalConfig,
    metrics: dict[str, Any],
    found: dict[str, dict[float, dict[str, Tensor]]],
    users: int,
    length: int,
) -> Table:
    rows = []
    for model, dials in found.items():
        for dial in dials:
            means = metrics[model][f"{dial:g}"]["mean"]
            cells = [means.get(f"{metric}@{length}") for metric in METRICS]
            shown = ["-" if value is None else f"{100 * value:.2f}" for value in cells]
            rows.append((model, f"{dial:g}", *shown))
    heads = [f"{SHORT[metric]}@{length}" for metric in METRICS]
    return Table(f"{users:,} users ({config.part}), %", ("model", "lambda", *heads), rows)


def _curves(
    metrics: dict[str, Any], found: dict[str, dict[float, dict[str, Tensor]]], length: int
) -> dict[str, list[tuple[float, float, float]]]:
    """Return (lambda, diversity, recall) in percent for each model."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for model, dials in found.items():
        for dial in dials:
            means = metrics[model][f"{dial:g}"]["mean"]
            point = (dial, 100 * means[f"diversity@{length}"], 100 * means[f"recall@{length}"])
            curves.setdefault(model, []).append(point)
    return curves
