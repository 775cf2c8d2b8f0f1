"""Who is above whom: ancestors with shortest distances, and which nodes a graph has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pairs:
    """Every node u with every ancestor-or-self x: `below` (M,), `above` (M,), `distance` (M,).

    Sorted by `below`, then `above`; `count` is the number of nodes.
    """

    below: Array
    above: Array
    distance: Array
    count: int

    def ancestors(self, node: int) -> tuple[Array, Array]:
        """Return the ancestors-or-self of a node and their distances."""
        low, high = np.searchsorted(self.below, (node, node + 1))
        return self.above[low:high], self.distance[low:high]


def _starts(sources: Array, count: int) -> Array:
    return np.concatenate(([0], np.cumsum(np.bincount(sources, minlength=count))))


def close(count: int, edges: Array) -> Pairs:
    """Return the closure of `edges` (E, 2), pairs (child, parent) without cycles.

    From the roots down: the ancestors of a node are itself and those of its parents, one step
    further; of several ways the shortest counts. Each level is one set of array operations.
    """
    depth = _depths(count, edges)
    above, distance = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    begin, length = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for level in range(int(depth.max(initial=0)) + 1):
        nodes = np.flatnonzero(depth == level)
        child, parent = edges[depth[edges[:, 0]] == level].T
        pair, place = _spread(length[parent])
        taken = begin[parent][pair] + place
        below = np.concatenate((nodes, child[pair]))
        over = np.concatenate((nodes, above[taken]))
        steps = np.concatenate((np.zeros(len(nodes), dtype=np.int64), distance[taken] + 1))
        order = np.lexsort((steps, below * count + over))
        below, over, steps = below[order], over[order], steps[order]
        first = np.diff(below * count + over, prepend=-1) > 0
        begin[nodes] = len(above) + np.searchsorted(below[first], nodes)
        length[nodes] = np.bincount(below[first], minlength=count)[nodes]
        above, distance = np.append(above, over[first]), np.append(distance, steps[first])
    node, place = _spread(length)
    taken = begin[node] + place
    return Pairs(node, above[taken], distance[taken], count)


def _depths(count: int, edges: Array) -> Array:
    """Return the longest way from a root to each node."""
    depth = np.zeros(count, dtype=np.int64)
    while True:
        deeper = depth.copy()
        np.maximum.at(deeper, edges[:, 0], depth[edges[:, 1]] + 1)
        if (deeper == depth).all():
            return depth
        depth = deeper


def _spread(lengths: Array) -> tuple[Array, Array]:
    """Return the owner of each element of ragged rows, and its place within the row."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def find_cycle(count: int, edges: Array) -> list[int]:
    """Return the nodes of a cycle in `edges` (child, parent), in order; none without a cycle."""
    left = edges
    while len(left):
        # A node without children left is on no cycle; peel until nothing changes.
        inner = np.zeros(count, dtype=bool)
        inner[left[:, 1]] = True
        kept = left[inner[left[:, 0]]]
        if len(kept) == len(left):
            return _walk(dict(left[:, ::-1].tolist()))
        left = kept
    return []


def _walk(child_of: dict[int, int]) -> list[int]:
    """Follow a child of each node until one comes again, and return that loop, upwards."""
    node, path = next(iter(child_of)), []
    while node not in path:
        path.append(node)
        node = child_of[node]
    return path[path.index(node) :][::-1]


def select_nodes(
    count: int, edges: Array, wanted: Sequence[int], stops: Sequence[int] = ()
) -> list[int]:
    """Return `wanted`, then what lies above them, breadth first.

    The search does not go above a node of `stops` (ImageNet's structure in the official graph).
    """
    order = np.argsort(edges[:, 0], kind="stable")
    parents, starts = edges[order, 1].tolist(), _starts(edges[:, 0], count).tolist()
    halt = set(stops)
    found = dict.fromkeys(wanted)
    queue = list(found)
    for node in queue:  # grows while it is walked through
        if node not in halt:
            for parent in parents[starts[node] : starts[node + 1]]:
                if parent not in found:
                    found[parent] = None
                    queue.append(parent)
    return queue
