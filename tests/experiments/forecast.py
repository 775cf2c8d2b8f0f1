"""Experiments of `forecast`: all methods side by side, personalisation, unseen nodes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlkit.tasks.forecast.adjacency import read_pickle
from mlkit.tasks.forecast.config import (
    FederationOptions,
    ModelOptions,
    RoundOptions,
    WindowOptions,
)
from mlkit.tasks.forecast.coordinator import Coordinator
from mlkit.tasks.forecast.graph import Graph, from_dense, gaussian_kernel
from mlkit.tasks.forecast.joint import ENGINES
from mlkit.tasks.forecast.naive import daily_profile, last_value
from mlkit.tasks.forecast.network import western
from mlkit.tasks.forecast.node import NodeGroup
from mlkit.tasks.forecast.rounds import run_rounds
from mlkit.tasks.forecast.sums import error_sums, rmse
from mlkit.tasks.forecast.transport import LocalTransport

from .__main__ import spread

WINDOWS = WindowOptions(stride=8, eval_stride=4)


class Network(NamedTuple):
    """A data set: series (N, S), the graph, node names, longitudes, budgets."""

    values: Tensor
    graph: Graph
    names: list[str]
    longitude: Tensor | None
    batch: int
    rounds: dict[str, int]


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def pemsd7(data: Path) -> Network:
    """25 sensors, 44 weekdays."""
    folder = data / "traffic" / "pemsd7-25"
    values = np.loadtxt(folder / "V_25.csv", delimiter=",").T
    distances = torch.from_numpy(np.loadtxt(folder / "W_25.csv", delimiter=","))
    graph = from_dense(gaussian_kernel(distances))
    rounds = {
        "fedavg": 24, "local": 40, "fmtl": 24, "central": 24, "central-gn": 12, "cnfgnn": 12,
        "at": 12, "split": 20, "dcrnn": 20,
    }  # fmt: skip
    names = [str(i + 1) for i in range(25)]
    return Network(torch.from_numpy(values).float(), graph, names, None, 64, rounds)


def metr_la(data: Path) -> Network:
    """207 sensors, one week, the adjacency of DCRNN."""
    folder = data / "traffic" / "metr-la-week"
    values = np.loadtxt(folder / "los_speed.csv", delimiter=",", skiprows=1).T
    names = (folder / "los_speed.csv").open().readline().strip().split(",")
    places = np.loadtxt(folder / "graph_sensor_locations.csv", delimiter=",", skiprows=1)
    by_id = {str(int(row[1])): row[3] for row in places}
    longitude = torch.tensor([by_id[name] for name in names])
    _, matrix = read_pickle(folder / "adj_mx.pkl")
    rounds = {
        "fedavg": 30, "local": 30, "fmtl": 30, "central": 30, "central-gn": 20, "cnfgnn": 20,
        "at": 20, "split": 20, "dcrnn": 10,
    }  # fmt: skip
    graph = from_dense(matrix)
    return Network(torch.from_numpy(values).float(), graph, names, longitude, 32, rounds)


def engine_of(network: Network, method: str, seed: int, **options: Any) -> Coordinator:
    """Return an engine for a method, at the sizes of the small experiment."""
    times = torch.arange(network.values.shape[1]) % 288 / 288
    transport = LocalTransport(NodeGroup(network.names, network.values, times))
    model = ModelOptions(method=method, hidden=32, server_hidden=64, server_size=32, **options)
    rounds = RoundOptions(
        rounds=network.rounds[method], batch_size=network.batch, server_batch=48, lr=3e-3,
        teacher=0, patience=0,
    )  # fmt: skip
    kind: Any = ENGINES.get(method, Coordinator)
    return kind(transport, network.graph, model, WINDOWS, rounds, FederationOptions(), seed)


def summary(sums: Tensor) -> dict[str, float]:
    """Return RMSE, MAE, and RMSE at 3, 6 and 12 steps."""
    total = sums.flatten(0, -3).sum(0) if sums.dim() > 2 else sums
    found = {"RMSE": rmse(sums), "MAE": float(total[:, 1].sum() / total[:, 3].sum())}
    for step in (3, 6, 12):
        found[f"RMSE@{step}"] = float((total[step - 1, 0] / total[step - 1, 3]).sqrt())
    return found


def naive(network: Network) -> dict[str, dict[str, float]]:
    """Return the scores of the last value and of the time-of-day profile."""
    group = NodeGroup(network.names, network.values, torch.zeros(network.values.shape[1]))
    engine = engine_of(network, "fedavg", 0)
    engine.begin()
    starts = engine.transport.group.starts  # type: ignore[attr-defined]
    last = int(starts["train"][-1]) + 24
    slots = torch.arange(network.values.shape[1]) % 288
    truth = group.values[:, starts["test"][:, None] + torch.arange(12, 24)]
    arms = {
        "last value": last_value(group.values, starts["test"], 12, 12),
        "daily profile": daily_profile(group.values, slots, last, starts["test"], 12, 12),
    }
    return {name: summary(error_sums(found, truth)) for name, found in arms.items()}


def _run(
    data: Path, seeds: int, load: Callable[[Path], Network], methods: list[str]
) -> dict[str, Any]:
    torch.set_num_threads(1)
    network = load(data)
    chosen = os.environ.get("METHODS")  # to run some methods as a job of their own
    methods = chosen.split(",") if chosen else methods
    values: dict[str, dict[str, list[float]]] = {}

    def note(seed: int, method: str, found: dict[str, float]) -> None:
        for metric, value in found.items():
            values.setdefault(method, {}).setdefault(metric, []).append(value)
        shown = {metric: round(value, 4) for metric, value in found.items()}
        _say(json.dumps([seed, load.__name__, method, shown]))

    for method, found in naive(network).items():
        note(0, method, found)
    for seed in range(seeds):
        for method in methods:
            begin = time.process_time()
            engine = engine_of(network, method, seed)
            fitted = run_rounds(engine)
            valid = rmse(engine.evaluate("valid"))
            found = summary(engine.evaluate("test"))
            note(seed, method, {
                **found, "valid": valid, "round": float(fitted.best_step),
                "MB": sum(e["down_mb"] + e["up_mb"] for e in fitted.history),
                "cpu s": time.process_time() - begin,
            })  # fmt: skip
            if method == "cnfgnn":
                note(seed, "cnfgnn, personalised", _personal(engine, 1e-3))
    return {
        method: {metric: spread(found) for metric, found in metrics.items()}
        for method, metrics in values.items()
    }


def _personal(engine: Coordinator, rate: float, epochs: int = 8) -> dict[str, float]:
    begin = time.process_time()
    engine.options = engine.options.model_copy(update={"personal_lr": rate})
    tensors = engine.personalise(epochs)
    found = summary(engine.evaluate("test"))
    extra = {
        "valid": rmse(tensors["after"]),
        "epoch": float(tensors["epoch"].mean()),
        "cpu s": time.process_time() - begin,
    }
    engine.transport.group.personal = None  # type: ignore[attr-defined]
    return {**found, **extra}


METHODS = ["cnfgnn", "local", "fedavg", "central", "central-gn", "fmtl", "at", "split", "dcrnn"]


def table(data: Path, seeds: int) -> dict[str, Any]:
    """All methods on pemsd7-25."""
    return _run(data, seeds, pemsd7, METHODS)


def week(data: Path, seeds: int) -> dict[str, Any]:
    """All methods on the METR-LA week."""
    return _run(data, seeds, metr_la, METHODS)


ARMS = {"cnfgnn": {}, "cnfgnn, mean": {"global_agg": "mean"}, "fedavg": {}}


def inductive(data: Path, seeds: int) -> dict[str, Any]:
    """Train on 25, 50 and 75 % of the METR-LA sensors; errors on sensors seen and unseen."""
    torch.set_num_threads(1)
    network = metr_la(data)
    assert network.longitude is not None
    values: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for ratio in map(float, os.environ.get("RATIOS", "0.25,0.5,0.75").split(",")):
            chosen = western(network.longitude, ratio)
            unseen = torch.ones(len(network.names), dtype=torch.bool)
            unseen[chosen] = False
            for arm, options in ARMS.items():
                if arm not in os.environ.get("ARMS", arm).split(";"):
                    continue
                sums = _transfer(network, chosen, arm.partition(",")[0], seed, options)
                for group, rows in (("seen", ~unseen), ("unseen", unseen)):
                    found = summary(sums[rows])
                    name = f"{arm}, {ratio:.0%}, {group}"
                    for metric, value in found.items():
                        values.setdefault(name, {}).setdefault(metric, []).append(value)
                    _say(json.dumps([seed, name, {k: round(v, 4) for k, v in found.items()}]))
            for group, rows in (("seen", ~unseen), ("unseen", unseen)):
                part = network._replace(
                    values=network.values[rows], names=network.names[: int(rows.sum())]
                )
                found = naive(part)["last value"]
                for metric, value in found.items():
                    values.setdefault(f"last value, {ratio:.0%}, {group}", {})[metric] = [value]
    return {
        name: {metric: spread(found) for metric, found in metrics.items()}
        for name, metrics in values.items()
    }


def _transfer(
    network: Network, chosen: Tensor, method: str, seed: int, options: dict[str, Any]
) -> Tensor:
    """Train on some sensors and their graph; return test sums (N, H, 5) of all on the full one."""
    names = [network.names[i] for i in chosen.tolist()]
    rounds = {name: 12 for name in network.rounds}
    part = network._replace(
        values=network.values[chosen],
        graph=network.graph.induced(chosen),
        names=names,
        rounds=rounds,
    )
    engine = engine_of(part, method, seed, **options)
    run_rounds(engine)
    whole = engine_of(network, method, seed, **options)
    whole.begin()
    whole.transport.call("standardise", mean=engine.scaler.mean, std=engine.scaler.std)
    whole.restore(engine.snapshot())
    return whole.evaluate("test")
