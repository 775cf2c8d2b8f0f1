"""Graph networks that regress classifier rows from the vectors of classes.

Source: Kampffmeyer et al., arXiv 1805.11724; the rules of GPM, DGPM and ADGPM are those of the
official code, including where the bias is added. GCNZ: Wang, Ye, Gupta, CVPR 2018.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import NetworkOptions
from .links import Links, Plan

SLOPE = 0.2  # of the LeakyReLU


class Layer(nn.Module):
    """An average over neighbours and a linear map: R rows of `outputs` from N of `inputs`.

    GPM, DGPM: D^-1 A X W + b. ADGPM: sum_k alpha_k D_k^-1 A_k (X W + b), with alpha the softmax
    of one number per distance group; the bias is inside, so that it counts once per group that
    a row has.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 0, renormalise: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)
        self.attention = nn.Parameter(torch.ones(groups)) if groups else None
        self.renormalise = renormalise

    def shares(self) -> Tensor | None:
        """Return alpha (K + 1,), which sums to 1; None without attention."""
        return None if self.attention is None else self.attention.softmax(0)

    def forward(self, x: Tensor, links: Links) -> Tensor:
        """Return (R, outputs) for `x` (N, inputs): first the average, whose rows are narrower."""
        shares = self.shares()
        weights = links.weighted(shares, self.renormalise)
        mapped = links.product(weights, x) @ self.weight
        if shares is None:
            return mapped + self.bias
        return mapped + links.sums(weights)[:, None] * self.bias


class RowNetwork(nn.Module):
    """Layers with LeakyReLU and dropout between them; output rows have norm 1."""

    def __init__(self, inputs: int, outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        widths = [inputs, *options.widths, outputs]
        groups = options.groups + 1 if options.variant == "adgpm" else 0
        self.layers = nn.ModuleList(
            Layer(a, b, groups, options.renormalise) for a, b in pairwise(widths)
        )
        self.dropout = options.dropout

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Return rows (R, outputs) of norm 1 for the vectors `x` (n, inputs) of `plan.nodes`."""
        for i, (layer, links) in enumerate(zip(self.layers, plan.layers, strict=True)):
            # Six layers drop before the last two alone (GCNZ); with two layers these are all.
            if i >= len(self.layers) - 2:
                x = F.dropout(x, self.dropout, self.training)
            x = layer(x, links)
            if i < len(self.layers) - 1:
                x = F.leaky_relu(x, SLOPE)
        return F.normalize(x, dim=1)

    def shares(self) -> list[list[float]]:
        """Return the attention by distance of each phase; empty lists without attention."""
        found = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            shares = layer.shares()
            found.append([] if shares is None else shares.detach().tolist())
        return found
