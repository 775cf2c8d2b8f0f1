from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.tasks.zeroshot.closure import close, find_cycle, select_nodes

from .helpers import COUNT, EDGES, random_dag


def slow(count: int, edges: np.ndarray) -> dict[tuple[int, int], int]:
    """Breadth-first search from every node."""
    found = {}
    for node in range(count):
        level, distance = {node}, 0
        while level:
            for above in level:
                found.setdefault((node, above), distance)
            reached = {int(p) for c, p in edges if c in level}
            level, distance = {p for p in reached if (node, p) not in found}, distance + 1
    return found


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 25), seed=st.integers(0, 10**6))
def test_the_closure_is_that_of_breadth_first_search(count: int, seed: int) -> None:
    edges = random_dag(count, seed)
    pairs = close(count, edges)
    entries = zip(pairs.below.tolist(), pairs.above.tolist(), pairs.distance.tolist(), strict=True)
    listed = list(entries)
    assert {(u, x): d for u, x, d in listed} == slow(count, edges)
    assert len(listed) == len(slow(count, edges))
    assert listed == sorted(listed)


def test_the_shortest_of_several_ways_counts() -> None:
    edges = np.array([(3, 2), (2, 1), (1, 0), (3, 0)])
    above, distance = close(4, edges).ancestors(3)
    assert dict(zip(above.tolist(), distance.tolist(), strict=True)) == {3: 0, 2: 1, 1: 2, 0: 1}


def test_cycles_are_found() -> None:
    assert find_cycle(COUNT, EDGES) == []
    cycle = find_cycle(COUNT, np.vstack((EDGES, [(0, 5)])))
    pairs = set(map(tuple, [*EDGES.tolist(), (0, 5)]))
    assert len(cycle) >= 3
    for child, parent in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert (child, parent) in pairs
    assert find_cycle(1, np.array([(0, 0)])) == [0]


@pytest.mark.parametrize("stops", [[], [1], [2, 7]])
def test_the_search_does_not_go_above_a_stop(stops: list[int]) -> None:
    chosen = select_nodes(COUNT, EDGES, [5, 4], stops)
    assert chosen[:2] == [5, 4]
    # 5 is below 3, which has the parents 1 and 2; 4 is below 1.
    assert set(chosen) == {5, 4, 3, 1, 2, 0}
    above = select_nodes(COUNT, EDGES, [4], stops)
    assert above == ([4, 1] if stops == [1] else [4, 1, 0])
    assert len(chosen) == len(set(chosen))
