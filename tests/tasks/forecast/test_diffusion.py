"""The network of DCRNN against plain loops and its own laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlkit.tasks.forecast.diffusion import DiffusionConv, DiffusionNetwork, scaled_laplacian
from mlkit.tasks.forecast.graph import from_dense

from .helpers import engine, graph


def test_laplacian_is_the_symmetric_normalised_one_scaled_to_one() -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = scaled_laplacian(from_dense(dense))
    weights = [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    degree = [2, 3, 1]
    plain = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            plain[i, j] = float(i == j) - weights[i][j] / (degree[i] * degree[j]) ** 0.5
    largest = float(torch.linalg.eigvalsh(plain).max())
    torch.testing.assert_close(found, 2 * plain / largest - torch.eye(3))
    assert float(torch.linalg.eigvalsh(found).abs().max()) == pytest.approx(1, abs=1e-5)


def test_isolated_nodes_keep_to_themselves() -> None:
    found = scaled_laplacian(from_dense(torch.tensor([[0.0, 1.0, 0], [1, 0, 0], [0, 0, 0]])))
    assert found[2].tolist() == [0, 0, 0]  # 2 / lambda_max - 1 with lambda_max = 2
    loops = scaled_laplacian(from_dense(torch.eye(3)))
    torch.testing.assert_close(loops, -torch.eye(3))


def test_convolution_sums_chebyshev_polynomials() -> None:
    laplacian = scaled_laplacian(graph(5))
    made = DiffusionConv(3, 2, 0.5)
    x = torch.randn(5, 4, 3)
    squared = 2 * laplacian @ laplacian - torch.eye(5)
    blocks = made.linear.weight.split(3, dim=1)
    wanted = sum(
        torch.einsum("nm,mbf,of->nbo", polynomial, x, block)
        for polynomial, block in zip((torch.eye(5), laplacian, squared), blocks, strict=True)
    )
    torch.testing.assert_close(made(x, laplacian), wanted + 0.5, atol=1e-5, rtol=1e-5)


def _windows(nodes: int = 5) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    past = torch.randn(nodes, 4, 6), torch.rand(nodes, 4, 6)
    return past, (torch.rand(nodes, 4, 3), torch.randn(nodes, 4, 3), torch.rand(nodes, 4, 3) > 0.3)


def test_relabelled_nodes_get_relabelled_forecasts() -> None:
    torch.manual_seed(0)
    network, order = DiffusionNetwork(7, 2), torch.randperm(5)
    past, future = _windows()
    laplacian = scaled_laplacian(graph(5))
    plain = network(past, future, None, laplacian)
    moved = network(
        tuple(t[order] for t in past), tuple(t[order] for t in future), None,
        laplacian[order][:, order],
    )  # fmt: skip
    assert plain.shape == (5, 4, 3)
    torch.testing.assert_close(moved, plain[order], atol=1e-5, rtol=1e-5)


def test_the_truth_is_fed_only_where_forced_and_observed() -> None:
    torch.manual_seed(0)
    network = DiffusionNetwork(7, 1)
    past, (times, targets, observed) = _windows()
    laplacian = scaled_laplacian(graph(5))
    free = network(past, (times, targets, observed), None, laplacian)
    never = network(past, (times, targets, observed), torch.zeros(3, dtype=torch.bool), laplacian)
    assert torch.equal(free, never)
    forced = torch.tensor([True, False, True])
    fed = network(past, (times, targets, observed), forced, laplacian)
    assert torch.equal(fed[..., 0], free[..., 0])
    assert not torch.equal(fed[..., 1], free[..., 1])
    unseen = network(past, (times, targets, torch.zeros_like(observed)), forced, laplacian)
    assert torch.equal(unseen, free)


def test_learning_rate_falls_after_the_epochs_of_the_authors() -> None:
    made = engine("dcrnn", lr=0.01)
    for rounds, rate in ((0, 1e-2), (19, 1e-2), (20, 1e-3), (55, 1e-6)):
        made.rounds = rounds
        made.round()
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
