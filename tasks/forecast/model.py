"""The networks: a GRU encoder-decoder per device, stacked over nodes, and the server's graph net.

Sizes in the docstrings: G stacked devices (one per node, or 1 where all nodes share weights),
M sequences per device, L layers, h hidden units, e units of the graph embedding (0 without a
server), T input and H output steps, N nodes, E edges, B windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .graph import Graph, scatter_sum

Aggregate = Literal["sum", "mean", "none"]


@dataclass(frozen=True)
class DeviceNet:
    """The encoder-decoder that every device runs (CNFGNN, section 3.2), on flat weights (G, P).

    The encoder reads a value and the time of day per step; the decoder starts from its last
    state beside the embedding g of the server and feeds on its own output. The cells are
    torch.nn.GRU's. Weights are one row per device, so that a message, an average, and
    G independent optimizers are operations on one tensor.
    """

    hidden: int
    embedding: int
    layers: int = 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the weights, in the order of a row; as torch.nn.GRU's."""
        found: dict[str, tuple[int, ...]] = {}
        for part, width in (("encoder", self.hidden), ("decoder", self.width)):
            for layer in range(self.layers):
                found[f"{part}.weight_ih_l{layer}"] = (3 * width, width if layer else 2)
                found[f"{part}.weight_hh_l{layer}"] = (3 * width, width)
                found[f"{part}.bias_ih_l{layer}"] = (3 * width,)
                found[f"{part}.bias_hh_l{layer}"] = (3 * width,)
        return {**found, "output.weight": (1, self.width), "output.bias": (1,)}

    @property
    def width(self) -> int:
        """Hidden units of the decoder."""
        return self.hidden + self.embedding

    @property
    def size(self) -> int:
        """Weights per device, P."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def unpack(self, weights: Tensor) -> dict[str, Tensor]:
        """Return views (G, *shape) of rows of weights (G, P), by name."""
        shapes = self.shapes()
        parts = weights.split([math.prod(shape) for shape in shapes.values()], dim=1)
        return {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return one row of weights (1, P), uniform in +-1/sqrt(width) as torch.nn.GRU does it."""
        parts = []
        for name, shape in self.shapes().items():
            bound = 1 / math.sqrt(self.hidden if name.startswith("encoder") else self.width)
            uniform = torch.rand(math.prod(shape), generator=generator)
            parts.append((2 * uniform - 1) * bound)
        return torch.cat(parts)[None]

    def encode(self, weights: Tensor, values: Tensor, times: Tensor) -> Tensor:
        """Return the last state of each layer (G, M, L, h) after values and times (G, M, T)."""
        parts = self.unpack(weights)
        inputs = torch.stack((values, times), -1).transpose(1, 2)  # (G, T, M, 2)
        last = []
        for layer in range(self.layers):
            cell = _cell(parts, "encoder", layer)
            states = _run(cell, inputs)
            last.append(states[-1])
            if layer + 1 < self.layers:
                inputs = torch.stack(states, 1)
        return torch.stack(last, 2)

    def decode(
        self,
        weights: Tensor,
        state: Tensor,
        last: tuple[Tensor, Tensor],
        times: Tensor,
        truth: Tensor | None = None,
        forced: Tensor | None = None,
    ) -> Tensor:
        """Return forecasts (G, M, H) from state (G, M, L, h + e).

        `last` is the last input value and its time (G, M) each. Step t + 1 gets the forecast of
        step t with the time of step t, `times[..., t]` (G, M, H): the last time is never read.
        Where `forced` (broadcastable to (G, M, H), bool) holds, the true value (G, M, H) of step
        t is fed instead.
        """
        parts = self.unpack(weights)
        cells = [_cell(parts, "decoder", layer) for layer in range(self.layers)]
        states = list(state.unbind(2))
        out_weight, out_bias = parts["output.weight"].mT, parts["output.bias"][:, None]
        value, time = last[0][..., None], last[1][..., None]
        outputs: list[Tensor] = []
        for step in range(times.shape[-1]):
            x = torch.cat((value, time), -1)
            for layer, cell in enumerate(cells):
                states[layer] = cell.step(cell.project(x), states[layer])
                x = states[layer]
            value = torch.baddbmm(out_bias, x, out_weight)
            outputs.append(value)
            if forced is not None and truth is not None:
                value = torch.where(forced[..., step, None], truth[..., step, None], value)
            time = times[..., step, None]
        return torch.cat(outputs, -1)


@dataclass(frozen=True)
class _Cell:
    """One layer of stacked GRUs; weights (G, out, in), biases (G, 1, out)."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Return the inputs' part of the gates (G, M, 3h) of x (G, M, in)."""
        return torch.baddbmm(self.bias_ih, x, self.weight_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """Return the next state (G, M, h)."""
        hidden = torch.baddbmm(self.bias_hh, state, self.weight_hh)
        h = state.shape[-1]
        gates = torch.sigmoid(projected[..., : 2 * h] + hidden[..., : 2 * h])
        reset, update = gates.split(h, -1)
        new = torch.tanh(torch.addcmul(projected[..., 2 * h :], reset, hidden[..., 2 * h :]))
        return torch.lerp(new, state, update)


def _cell(parts: dict[str, Tensor], part: str, layer: int) -> _Cell:
    weights = (parts[f"{part}.weight_{kind}_l{layer}"].mT for kind in ("ih", "hh"))
    biases = (parts[f"{part}.bias_{kind}_l{layer}"][:, None] for kind in ("ih", "hh"))
    return _Cell(*weights, *biases)


def _run(cell: _Cell, inputs: Tensor) -> list[Tensor]:
    """Return the states (G, M, h) after each step of inputs (G, T, M, in)."""
    devices, steps, sequences, size = inputs.shape
    flat = inputs.reshape(devices, steps * sequences, size)
    projected = cell.project(flat).view(devices, steps, sequences, -1)  # all steps in one product
    state = inputs.new_zeros(devices, sequences, cell.weight_hh.shape[1])
    states = []
    for step in range(steps):
        state = cell.step(projected[:, step], state)
        states.append(state)
    return states


class Mlp(nn.Module):
    """Linear-ReLU twice, then Linear: two hidden layers of one size, on the last dimension."""

    def __init__(self, sizes: tuple[int, ...], hidden: int, out: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.first = nn.Linear(sum(sizes), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, out)

    def parts(self) -> tuple[Tensor, ...]:
        """Return the first layer's weight cut into one block per input."""
        return self.first.weight.split(self.sizes, dim=1)

    def finish(self, summed: Tensor) -> Tensor:
        """Continue behind the first layer's products, its bias not yet added."""
        hidden = torch.relu(summed + self.first.bias)
        return self.third(torch.relu(self.second(hidden)))


class GraphNetwork(nn.Module):
    """The server's model: two rounds of edge, node and global updates with dense skips.

    Battaglia et al. 2018; section 3.3 of CNFGNN. `node_size` is h, `sizes` the updated sizes of
    edges, nodes and the global feature. The last global update never reaches the output and is
    left out: 213,632 weights at the paper's sizes, which its code trains in vain.
    """

    def __init__(
        self, node_size: int, hidden: int, updated: int, out: int, aggregate: Aggregate = "sum"
    ) -> None:
        super().__init__()
        self.aggregate = aggregate
        nodes, edges, whole = node_size, 1, node_size
        self.edge_updates, self.node_updates = nn.ModuleList(), nn.ModuleList()
        self.global_updates = nn.ModuleList()
        for layer in range(LAYERS):
            self.edge_updates.append(Mlp((nodes, nodes, edges, whole), hidden, updated))
            self.node_updates.append(Mlp((nodes, updated, whole), hidden, updated))
            if layer + 1 < LAYERS:
                self.global_updates.append(Mlp((updated, updated, whole), hidden, updated))
            nodes, edges, whole = nodes + updated, edges + updated, whole + updated
        self.readout = nn.Linear(nodes, out)

    def forward(self, encodings: Tensor, graph: Graph) -> Tensor:
        """Return embeddings (N, B, L, e) of encodings (N, B, L, h); B and L are batch dimensions.

        An edge weight is a feature of the message, not a factor on it.
        """
        nodes = encodings
        edges = graph.weight.view(-1, 1, 1, 1)  # alike in all windows: broadcast, never expanded
        whole = torch.zeros_like(encodings[:1])
        for layer in range(LAYERS):
            new_edges = self._update_edges(layer, nodes, edges, whole, graph)
            received = scatter_sum(new_edges, graph.target, graph.nodes)
            node_parts = self.node_updates[layer].parts()  # type: ignore[operator]
            new_nodes = self.node_updates[layer].finish(  # type: ignore[operator]
                _products(node_parts, (nodes, received, whole))
            )
            if layer + 1 < LAYERS:
                new_whole = self._update_whole(layer, new_nodes, new_edges, whole)
                whole = torch.cat((new_whole, whole), -1)
                kept = edges.expand(-1, *new_edges.shape[1:-1], -1)
                edges = torch.cat((new_edges, kept), -1)
            nodes = torch.cat((new_nodes, nodes), -1)
        return self.readout(nodes)

    def _update_edges(
        self, layer: int, nodes: Tensor, edges: Tensor, whole: Tensor, graph: Graph
    ) -> Tensor:
        """Project the nodes before they are gathered: N products instead of E."""
        update: Mlp = self.edge_updates[layer]  # type: ignore[assignment]
        source, target, edge, glob = update.parts()
        from_nodes = (nodes @ source.mT)[graph.source] + (nodes @ target.mT)[graph.target]
        return update.finish(from_nodes + (edges @ edge.mT + whole @ glob.mT))

    def _update_whole(self, layer: int, nodes: Tensor, edges: Tensor, whole: Tensor) -> Tensor:
        update: Mlp = self.global_updates[layer]  # type: ignore[assignment]
        if self.aggregate == "none":
            pooled = [nodes.new_zeros(1, *part.shape[1:]) for part in (nodes, edges)]
        elif self.aggregate == "mean":
            pooled = [part.mean(0, keepdim=True) for part in (nodes, edges)]
        else:
            pooled = [part.sum(0, keepdim=True) for part in (nodes, edges)]
        return update.finish(_products(update.parts(), (*pooled, whole)))


LAYERS = 2


def _products(weights: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the sum of x W^T over inputs that broadcast against one another."""
    total = inputs[0] @ weights[0].mT
    for weight, x in zip(weights[1:], inputs[1:], strict=True):
        total = total + x @ weight.mT
    return total


def teacher_probability(step: int, decay: float) -> float:
    """Return the chance that the decoder is fed the truth: tau / (tau + exp(k / tau)).

    `decay` is tau, `step` is k, the optimizer steps so far; 0 for tau = 0. Never overflows.
    """
    if decay == 0:
        return 0.0
    return 1 / (1 + math.exp(min(step / decay, 700.0)) / decay)
