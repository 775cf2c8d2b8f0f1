"""The network of DCRNN (Li et al., ICLR 2018): a GRU encoder-decoder that diffuses over the graph.

As its authors' code has it with the filter "laplacian". Sizes: N nodes, B windows, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .graph import Graph
from .node import NodeGroup

HOPS = 2  # K: Chebyshev polynomials up to this order


def scaled_laplacian(graph: Graph) -> Tensor:
    """Return 2 L / lambda_max - I (N, N), its eigenvalues in [-1, 1], of the graph max(A, A^T).

    L = I - D^-1/2 A D^-1/2; a node without edges has the row 1 in L.
    """
    dense = graph.dense().double()
    adjacency = torch.maximum(dense, dense.T)
    scale = adjacency.sum(1).rsqrt()
    scale = scale.where(scale.isfinite(), 0)
    identity = torch.eye(graph.nodes, dtype=torch.float64, device=dense.device)
    laplacian = identity - scale[:, None] * adjacency * scale
    largest = torch.linalg.eigvalsh(laplacian)[-1]  # 0 where nodes have no edge but to themselves
    return (2 / largest.clamp_min(1e-9) * laplacian - identity).float()


class DiffusionConv(nn.Module):
    """Mixes the Chebyshev polynomials T_0..T_K of the Laplacian, applied to x (N, B, F)."""

    def __init__(self, size: int, out: int, bias: float) -> None:
        super().__init__()
        self.linear = nn.Linear((HOPS + 1) * size, out)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.constant_(self.linear.bias, bias)

    def forward(self, x: Tensor, laplacian: Tensor) -> Tensor:
        """Return (N, B, out)."""
        terms = [x, torch.tensordot(laplacian, x, 1)]
        for _ in range(HOPS - 1):
            terms.append(2 * torch.tensordot(laplacian, terms[-1], 1) - terms[-2])
        return self.linear(torch.cat(terms, -1))


class DiffusionCell(nn.Module):
    """A GRU whose products are diffusion convolutions; its gates start open (bias 1)."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.gates = DiffusionConv(size + hidden, 2 * hidden, 1.0)
        self.candidate = DiffusionConv(size + hidden, hidden, 0.0)

    def forward(self, x: Tensor, state: Tensor, laplacian: Tensor) -> Tensor:
        """Return the next state (N, B, h) from an input (N, B, F)."""
        gates = torch.sigmoid(self.gates(torch.cat((x, state), -1), laplacian))
        reset, update = gates.chunk(2, -1)
        new = torch.tanh(self.candidate(torch.cat((x, reset * state), -1), laplacian))
        return torch.lerp(new, state, update)


class DiffusionNetwork(nn.Module):
    """Encoder over values and times of day, decoder over its own output from a zero on."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for layer in range(layers):
            self.encoder.append(DiffusionCell(hidden if layer else 2, hidden))
            self.decoder.append(DiffusionCell(hidden if layer else 1, hidden))
        self.output = nn.Linear(hidden, 1)

    def forward(
        self,
        past: tuple[Tensor, Tensor],
        future: tuple[Tensor, Tensor, Tensor],
        forced: Tensor | None,
        laplacian: Tensor,
    ) -> Tensor:
        """Return standardised forecasts (N, B, H) from what `Windows` gives.

        At the steps where `forced` (H,) holds, the decoder is fed an observed truth.
        """
        inputs = torch.stack(past, -1)  # (N, B, T, 2)
        states = [inputs.new_zeros(*inputs.shape[:2], self.hidden) for _ in self.encoder]
        for step in range(inputs.shape[2]):
            _advance(self.encoder, inputs[:, :, step], states, laplacian)
        _, targets, observed = future
        value, found = inputs.new_zeros(*inputs.shape[:2], 1), []
        for step in range(targets.shape[2]):
            value = self.output(_advance(self.decoder, value, states, laplacian))
            found.append(value)
            if forced is not None and bool(forced[step]):
                value = targets[:, :, step, None].where(observed[:, :, step, None], value)
        return torch.cat(found, -1)


def _advance(cells: nn.ModuleList, x: Tensor, states: list[Tensor], laplacian: Tensor) -> Tensor:
    """Move all layers by one step; the new states replace the old. Returns the last one."""
    for layer, cell in enumerate(cells):
        x = states[layer] = cell(x, states[layer], laplacian)
    return x


@torch.no_grad()
def diffuse(
    network: DiffusionNetwork, laplacian: Tensor, group: NodeGroup, starts: Tensor
) -> Tensor:
    """Return forecasts (N, B, H), in the data's units, of windows that start at `starts` (B,)."""
    past, future = group.windows.past(starts[None]), group.windows.future(starts[None])
    return group.scaler.restore(network(past, future, None, laplacian))
