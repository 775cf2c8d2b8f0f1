"""Sparse directed graphs: weights from distances, induced sub-graphs, message passing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """Edges source -> target with one weight each, sorted by target; self loops are edges.

    `source` and `target` are int64 (E,), `weight` is float32 (E,), `nodes` their number N.
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    nodes: int

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device | str) -> Graph:
        """Return the graph on another device."""
        source, target, weight = (t.to(device) for t in (self.source, self.target, self.weight))
        return Graph(source, target, weight, self.nodes)

    def dense(self) -> Tensor:
        """Return the matrix (N, N) whose entry (i, j) is the weight of the edge i -> j."""
        matrix = self.weight.new_zeros(self.nodes, self.nodes)
        return matrix.index_put((self.source, self.target), self.weight)

    def induced(self, nodes: Tensor) -> Graph:
        """Return the graph of some nodes (int64, distinct), numbered by their place there."""
        place = self.source.new_full((self.nodes,), -1)
        place[nodes] = torch.arange(len(nodes), device=place.device)
        source, target = place[self.source], place[self.target]
        kept = (source >= 0) & (target >= 0)
        return make_graph(source[kept], target[kept], self.weight[kept], len(nodes))


def make_graph(source: Tensor, target: Tensor, weight: Tensor, nodes: int) -> Graph:
    """Return a graph with its edges sorted by target, then by source."""
    order = (target * nodes + source).argsort()
    return Graph(source[order], target[order], weight[order].float(), nodes)


def from_dense(matrix: Tensor) -> Graph:
    """Return the graph whose edges are the non-zero entries (i, j) of a matrix (N, N)."""
    source, target = matrix.nonzero(as_tuple=True)
    return make_graph(source, target, matrix[source, target], len(matrix))


def with_self_loops(graph: Graph) -> tuple[Graph, int]:
    """Return the graph with an edge of weight 1 on each node without a loop, and their number."""
    missing = torch.ones(graph.nodes, dtype=torch.bool)
    missing[graph.source[graph.source == graph.target]] = False
    alone = missing.nonzero()[:, 0]
    source, target = torch.cat((graph.source, alone)), torch.cat((graph.target, alone))
    weight = torch.cat((graph.weight, torch.ones(len(alone))))
    return make_graph(source, target, weight, graph.nodes), len(alone)


def gaussian_kernel(distances: Tensor, threshold: float = 0.1) -> Tensor:
    """Turn distances (N, N), inf where there is no road, into weights in [0, 1].

    w = exp(-(d / s)^2), s the standard deviation of the finite distances between different nodes;
    below `threshold` it is 0, on the diagonal 1. The kernel of DCRNN (Li et al. 2018, eq. 10),
    whose code takes the zeros of the diagonal into s where its list of distances holds them.
    """
    between = ~torch.eye(len(distances), dtype=torch.bool)
    finite = distances[between & distances.isfinite()].double()
    scale = finite.std(correction=0) if len(finite) > 1 else torch.tensor(0.0)
    # Equal distances have no spread; their own length is the scale then.
    scale = scale if scale > 0 else finite.mean().clamp_min(1e-9) if len(finite) else scale + 1
    weights = torch.exp(-((distances.double() / scale) ** 2))
    weights = weights.where(weights >= threshold, 0).where(distances.isfinite(), 0)
    return weights.fill_diagonal_(1).float()


def nearest(weights: Tensor, count: int) -> Tensor:
    """Keep the `count` largest entries of each column (N, N): a node hears that many others."""
    least = weights.topk(min(count, len(weights)), dim=0).values[-1]
    return weights.where(weights >= least, 0)


def haversine(latitude: Tensor, longitude: Tensor) -> Tensor:
    """Return great-circle distances (N, N) in metres of places (N,) in degrees."""
    lat, lon = latitude.double().deg2rad(), longitude.double().deg2rad()
    d_lat, d_lon = lat[:, None] - lat, lon[:, None] - lon
    square = (d_lat / 2).sin() ** 2 + lat.cos()[:, None] * lat.cos() * (d_lon / 2).sin() ** 2
    return 2 * 6_371_008.8 * square.clamp(0, 1).sqrt().asin()


def scatter_sum(messages: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Add the messages (E, ...) of the edges up at their targets: (N, ...), 0 without edges."""
    total = messages.new_zeros(nodes, *messages.shape[1:])
    return total.index_add(0, target, messages)
