"""`zeroshot`: a training step beside the full-graph form, closure, sparse products, scoring."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.zeroshot.classes import imagenet
from mlkit.tasks.zeroshot.closure import close
from mlkit.tasks.zeroshot.config import GraphOptions, NetworkOptions, ZeroshotTraining
from mlkit.tasks.zeroshot.fit import fit_network
from mlkit.tasks.zeroshot.graph import Graph, open_graph
from mlkit.tasks.zeroshot.links import plan
from mlkit.tasks.zeroshot.metrics import ranks
from mlkit.tasks.zeroshot.model import RowNetwork
from mlkit.tasks.zeroshot.taxonomy import open_taxonomy

from .timing import cpu_seconds

OPTIONS = NetworkOptions(hidden=256, dropout=0.0)
STEPS, WIDTH = 3, 1281


def compare() -> list[dict[str, Any]]:
    """All tables, one thread."""
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()
    graph = open_graph(GraphOptions(), Silent())
    return [*steps(graph), *closure(), *products(graph), *scoring()]


class FullGraph(torch.nn.Module):
    """The official form: all rows in every step, A (X W), one sparse product per group."""

    def __init__(self, graph: Graph, source: RowNetwork) -> None:
        super().__init__()
        count, pairs = len(graph.taxonomy), graph.pairs
        group = np.minimum(pairs.distance, OPTIONS.groups)
        self.matrices = []
        for rows, columns in ((pairs.above, pairs.below), (pairs.below, pairs.above)):
            parts = []
            for k in range(OPTIONS.groups + 1):
                row, column = rows[group == k], columns[group == k]
                values = 1 / np.bincount(row, minlength=count)[row]
                places = torch.from_numpy(np.stack((row, column)))
                size = (count, count)
                parts.append(torch.sparse_coo_tensor(places, values, size).float().coalesce())
            self.matrices.append(parts)
        self.layers = source.layers

    def forward(self, x: Tensor) -> Tensor:
        for i, (layer, parts) in enumerate(zip(self.layers, self.matrices, strict=True)):
            mapped = x @ layer.weight + layer.bias
            shares = layer.attention.softmax(0)
            terms = [a * torch.sparse.mm(m, mapped) for a, m in zip(shares, parts, strict=True)]
            x = torch.stack(terms).sum(0)
            x = F.leaky_relu(x, 0.2) if i == 0 else x
        return F.normalize(x, dim=1)


def steps(graph: Graph) -> list[dict[str, Any]]:
    """CPU seconds per training step of ADGPM, and that both forms reach the same loss."""
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(len(graph.seen), WIDTH), dim=1)
    torch.manual_seed(0)
    model = FullGraph(graph, RowNetwork(graph.vectors.shape[1], WIDTH, OPTIONS))
    optimizer = torch.optim.Adam(model.layers.parameters(), 1e-3, weight_decay=5e-4)
    losses = []

    def official() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            rows = model(graph.vectors)[torch.from_numpy(graph.seen)]
            loss = (rows - targets).square().sum() / (2 * len(targets))
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()

    slow = cpu_seconds(official, 1) / STEPS
    runtime = start(RunOptions(device="cpu"))
    found: list[float] = []

    def ours() -> None:
        training = ZeroshotTraining(epochs=STEPS, save_every=1)
        _, fitted = fit_network(graph, targets, OPTIONS, training, runtime)
        found[:] = [entry["rows"] for entry in fitted.history]

    ours()
    fast = cpu_seconds(ours, 2) / STEPS  # the plan, checkpoints and copies of weights included
    return [
        {"step": "full graph, official form", "s": round(slow, 3), "loss": round(losses[-1], 6)},
        {"step": "restricted", "s": round(fast, 3), "loss": round(found[-1], 6)},
    ]


def closure() -> list[dict[str, Any]]:
    """CPU seconds for the ancestors of all 82,115 nouns of WordNet."""
    wordnet = open_taxonomy("wordnet")
    parents: dict[int, list[int]] = {}
    for child, parent in wordnet.edges.tolist():
        parents.setdefault(child, []).append(parent)

    def searches() -> int:
        total = 0
        for node in range(len(wordnet)):
            found, queue = {node: 0}, deque([node])
            while queue:
                place = queue.popleft()
                for parent in parents.get(place, ()):
                    if parent not in found:
                        found[parent] = found[place] + 1
                        queue.append(parent)
            total += len(found)
        return total

    pairs = close(len(wordnet), wordnet.edges)
    assert searches() == len(pairs.below)
    return [
        {"closure": "a search per node", "s": round(cpu_seconds(searches, 1), 3)},
        {
            "closure": "level by level",
            "s": round(cpu_seconds(lambda: close(len(wordnet), wordnet.edges)), 3),
        },
    ]


def products(graph: Graph) -> list[dict[str, Any]]:
    """CPU milliseconds of the first phase's product for all rows, 200,082 entries."""
    edges = graph.taxonomy.edges
    whole = np.arange(len(graph.taxonomy))
    links = plan("adgpm", graph.pairs, edges, whole, 4, 2).layers[0]
    x = torch.randn(len(whole), 256)
    weights = links.weighted(torch.full((5,), 0.2))
    ends = torch.cat((links.starts, torch.tensor([len(links.columns)]))).numpy()
    scipy = csr_matrix((weights.numpy(), links.columns.numpy(), ends), (len(whole), len(whole)))
    coo = scipy.tocoo()
    places = torch.from_numpy(np.stack((coo.row, coo.col)))
    torch_coo = torch.sparse_coo_tensor(places, torch.from_numpy(coo.data), coo.shape).coalesce()
    wanted = torch.from_numpy(scipy @ x.numpy())
    torch.testing.assert_close(links.product(weights, x), wanted, atol=1e-5, rtol=1e-4)
    forms: dict[str, Callable[[], Any]] = {
        "embedding bag (ours)": lambda: links.product(weights, x),
        "scipy csr": lambda: scipy @ x.numpy(),
        "torch coo": lambda: torch.sparse.mm(torch_coo, x),
    }
    return [
        {"product": name, "ms": round(1e3 * cpu_seconds(form, 5), 1)}
        for name, form in forms.items()
    ]


def scoring() -> list[dict[str, Any]]:
    """Photos per CPU second against 20,842 classes, features given: scores and ranks."""
    count = len(imagenet()["all"])
    rows = F.normalize(torch.randn(count, WIDTH), dim=1)
    features, truth = torch.rand(256, WIDTH), torch.randint(count, (256,))

    def sorting() -> Tensor:
        order = (features @ rows.T).argsort(1, descending=True)
        return (order == truth[:, None]).int().argmax(1) + 1

    def counting() -> Tensor:
        return ranks(features @ rows.T, truth)

    assert torch.equal(sorting(), counting())
    forms: dict[str, Callable[[], Any]] = {"sorting": sorting, "counting": counting}
    return [
        {"ranks by": name, "photos/s": round(256 / cpu_seconds(form))}
        for name, form in forms.items()
    ]
