from __future__ import annotations

import math

import pytest
import torch

from mlkit.tasks.forecast.graph import (
    from_dense,
    gaussian_kernel,
    haversine,
    make_graph,
    nearest,
    scatter_sum,
    with_self_loops,
)
from mlkit.tasks.forecast.network import western

from .helpers import graph


def test_dense_and_back_with_edges_sorted_by_target() -> None:
    network = graph()
    assert torch.equal(from_dense(network.dense()).weight, network.weight)
    assert torch.equal(network.target, network.target.sort().values)
    assert len(network) == int((network.dense() != 0).sum())


def test_induced_graph_is_the_sub_matrix() -> None:
    chosen = torch.tensor([4, 0, 3])
    found = graph().induced(chosen).dense()
    assert torch.equal(found, graph().dense()[chosen][:, chosen])


def test_self_loops_are_added_where_missing() -> None:
    bare = make_graph(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([0.5, 0.7]), 3)
    full, added = with_self_loops(bare)
    assert added == 2
    wanted = torch.tensor([[1, 0.5, 0], [0, 0.7, 0], [0, 0, 1]])
    assert torch.equal(full.dense(), wanted)
    assert with_self_loops(full)[1] == 0


def test_kernel_against_the_formula() -> None:
    distances = torch.tensor([[0, 100.0, 300], [100, 0, torch.inf], [250, 90, 0]])
    finite = [100.0, 300, 100, 250, 90]
    mean = sum(finite) / 5
    scale = math.sqrt(sum((d - mean) ** 2 for d in finite) / 5)
    weights = gaussian_kernel(distances)
    for i in range(3):
        for j in range(3):
            wanted = math.exp(-((float(distances[i, j]) / scale) ** 2)) if i != j else 1.0
            wanted = wanted if wanted >= 0.1 else 0.0
            assert float(weights[i, j]) == pytest.approx(wanted, abs=1e-6)
    assert float(gaussian_kernel(torch.full((2, 2), 5.0).fill_diagonal_(0))[0, 1]) > 0.1


def test_haversine_and_neighbours() -> None:
    # One degree of latitude is a 360th of the meridian circle.
    places = haversine(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 90.0]))
    assert float(places[0, 1]) == pytest.approx(2 * math.pi * 6_371_008.8 / 360, rel=1e-9)
    assert float(places[0, 2]) == pytest.approx(math.pi * 6_371_008.8 / 2, rel=1e-9)
    kept = nearest(torch.tensor([[1, 0.2, 0.9], [0.5, 1, 0.1], [0.4, 0.3, 1]]), 2)
    assert kept.tolist() == [pytest.approx(row) for row in ([1, 0, 0.9], [0.5, 1, 0], [0, 0.3, 1])]


def test_scatter_sum_is_the_loop() -> None:
    network, messages = graph(), torch.randn(len(graph()), 2, 3)
    wanted = torch.zeros(6, 2, 3)
    for target, message in zip(network.target.tolist(), messages, strict=True):
        wanted[target] += message
    torch.testing.assert_close(scatter_sum(messages, network.target, 6), wanted)


def test_western_sensors_keep_their_order() -> None:
    longitude = torch.tensor([3.0, 1, 2, 5, 4])
    assert western(longitude, 0.5).tolist() == [1, 2]
    assert western(longitude, 0.6).tolist() == [0, 1, 2]
    assert western(longitude, 1).tolist() == [0, 1, 2, 3, 4]
