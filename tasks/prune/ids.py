"""Channel identities: which channels of a network belong together and which must stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

Array = NDArray[np.int64]
PROTECTED = 0  # the id of channels that must stay: the network's input, and constants


@dataclass(frozen=True)
class Ids:
    """The ids of a tensor's channels, which lie along dimension `dim`."""

    dim: int
    array: Array


@dataclass
class Roles:
    """The ids that a module reads and writes; None where they are not tracked."""

    inputs: Array | None = None
    outputs: Array | None = None


@dataclass
class ChannelGraph:
    """What was learnt about a traced network.

    `graph_module` shares its modules with the network. `roles` is keyed by module name.
    `node_ids` and `shapes` hold the ids and the shape of every node's value that has any;
    `producers` lists the modules that make fresh ids, in order; `cells` maps an id to the groups
    of grouped convolutions that it lies in. Ids must be looked up through `find`, which maps
    united ids to one representative.
    """

    graph_module: fx.GraphModule
    roles: dict[str, Roles] = field(default_factory=dict)
    producers: list[str] = field(default_factory=list)
    node_ids: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sums: list[fx.Node] = field(default_factory=list)
    joins: int = 0
    cells: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=lambda: [PROTECTED])
    _roots: Array | None = None  # `_parent` with every path followed to its end
    _protected: list[Array] = field(default_factory=list)
    _residual: list[Array] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of ids handed out; ids are 0..count-1."""
        return len(self._parent)

    def fresh(self, count: int) -> Array:
        """Return new ids."""
        start = len(self._parent)
        self._roots = None
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, ids: Array) -> Array:
        """Return the representatives of ids."""
        if self._roots is None:
            roots = np.asarray(self._parent)
            while not np.array_equal(roots, roots[roots]):
                roots = roots[roots]
            self._roots = roots
        return self._roots[ids]

    def unite(self, first: Array, second: Array) -> None:
        """Declare that ids can only be removed in pairs."""
        parent = self._parent
        self._roots = None
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            # The smaller id wins, so that PROTECTED stays a representative.
            parent[max(a, b)] = min(a, b)

    def protect(self, ids: Ids | Array | None) -> None:
        """Keep all of these channels."""
        if ids is not None:
            self._protected.append(ids.array if isinstance(ids, Ids) else ids)

    def mark_residual(self, ids: Array) -> None:
        """Note that these channels pass a residual sum."""
        self._residual.append(ids)

    @property
    def protected(self) -> Array:
        """Representatives that must stay."""
        return self._representatives(self._protected, [PROTECTED])

    @property
    def residual(self) -> Array:
        """Representatives that pass a residual sum."""
        return self._representatives(self._residual, [])

    def _representatives(self, parts: list[Array], extra: list[int]) -> Array:
        return np.unique(self.find(np.concatenate([*parts, np.asarray(extra, dtype=np.int64)])))
