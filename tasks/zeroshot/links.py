"""What a layer averages over: ragged rows of nodes, in groups by distance, each normalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .closure import Array, Pairs


@dataclass(frozen=True)
class Links:
    """A sparse matrix by rows: entry e of row r takes `columns[e]` with weight `values[e]`.

    `starts` (R,) is where each row begins, `groups` (E,) the attention group of each entry;
    `values` (E,) are 1 / size of the entry's group in its row, so that every group of a row
    sums to 1, or 0 where it is empty.
    """

    columns: Tensor
    starts: Tensor
    groups: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: torch.device) -> Links:
        """Return the links on another device."""
        return Links(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def weighted(self, attention: Tensor | None, renormalise: bool = False) -> Tensor:
        """Return the weights (E,) of all entries: `attention` (G,) of the group / its size.

        With `renormalise` the attention is scaled to sum to 1 over the groups that a row has.
        """
        if attention is None:
            return self.values
        weights = attention[self.groups] * self.values
        if renormalise:
            sums = self.sums(weights)
            lengths = torch.diff(self.starts, append=self.starts.new_tensor([len(weights)]))
            weights = weights / sums.repeat_interleave(lengths)
        return weights

    def sums(self, weights: Tensor) -> Tensor:
        """Return the sum (R,) of each row's weights."""
        return self.product(weights, weights.new_ones(int(self.columns.max()) + 1, 1))[:, 0]

    def product(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the rows (R, C) of the sparse matrix times `x` (N, C)."""
        return F.embedding_bag(
            self.columns, x, self.starts, mode="sum", per_sample_weights=weights.to(x.dtype)
        )


@dataclass(frozen=True)
class Plan:
    """The layers' links from first to last, and the nodes (n,) whose vectors go in.

    Columns of the first count places in `nodes`, columns of later ones rows of the layer before.
    """

    nodes: Tensor
    layers: tuple[Links, ...]

    def to(self, device: torch.device) -> Plan:
        """Return the plan on another device."""
        return Plan(self.nodes.to(device), tuple(links.to(device) for links in self.layers))


def plan(variant: str, pairs: Pairs, edges: Array, rows: Array, groups: int, layers: int) -> Plan:
    """Return what is needed for the output `rows` alone, and nothing else.

    `groups` is K, the largest distance with an attention of its own. From the last layer to the
    first: its columns are the rows of the layer before. In DGPM and ADGPM these are first the
    ancestors of the asked rows, then the descendants of those.
    """
    found: list[Links] = []
    wanted = rows
    for layer in reversed(range(layers)):
        last = layer == layers - 1
        row, column, group = _entries(variant, pairs, edges, groups, wanted, last)
        nodes, places = np.unique(column, return_inverse=True)
        if variant == "gcnz":
            values = _symmetric(wanted[row], column, edges, pairs.count)
        else:
            values = _means(row, group, len(wanted))
        starts = np.searchsorted(row, np.arange(len(wanted)))
        found.append(
            Links(
                torch.from_numpy(places),
                torch.from_numpy(starts),
                torch.from_numpy(group),
                torch.from_numpy(values).float(),
            )
        )
        wanted = nodes
    return Plan(torch.from_numpy(wanted), tuple(found[::-1]))


def _entries(
    variant: str, pairs: Pairs, edges: Array, groups: int, wanted: Array, last: bool
) -> tuple[Array, Array, Array]:
    """Return (place in `wanted`, node, group) of all entries of one layer, sorted by row."""
    if variant == "mlp":
        source, target, group = wanted, wanted, np.zeros_like(wanted)
    elif variant in ("gpm", "gcnz"):
        own = np.arange(pairs.count)
        source = np.concatenate((edges[:, 0], edges[:, 1], own))
        target = np.concatenate((edges[:, 1], edges[:, 0], own))
        group = np.zeros_like(source)
    else:
        source, target = (pairs.below, pairs.above) if last else (pairs.above, pairs.below)
        group = np.minimum(pairs.distance, groups if variant == "adgpm" else 0)
    place = np.full(pairs.count, -1)
    place[wanted] = np.arange(len(wanted))
    row = place[source]
    kept = np.flatnonzero(row >= 0)
    order = kept[np.lexsort((target[kept], row[kept]))]
    return row[order], target[order], group[order]


def _means(row: Array, group: Array, rows: int) -> Array:
    """Return D^-1 A of every group: 1 / the number of entries that share row and group."""
    width = int(group.max(initial=0)) + 1
    sizes = np.bincount(row * width + group, minlength=rows * width)
    return 1 / sizes[row * width + group]


def _symmetric(source: Array, target: Array, edges: Array, count: int) -> Array:
    """Return D^-1/2 (A + I) D^-1/2 of the entries (source, target), as GCNZ has it."""
    degree = np.bincount(edges.ravel(), minlength=count) + 1.0
    return 1 / np.sqrt(degree[source] * degree[target])
