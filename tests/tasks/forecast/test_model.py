from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from mlkit.core.accounting import count_parameters
from mlkit.tasks.forecast.graph import from_dense
from mlkit.tasks.forecast.model import DeviceNet, GraphNetwork, Mlp, teacher_probability

from .helpers import graph


def gru(net: DeviceNet, weights: Tensor, part: str, device: int) -> nn.GRU:
    """Return torch's GRU with the weights of one device."""
    width = net.hidden if part == "encoder" else net.width
    made = nn.GRU(2, width, net.layers, batch_first=True)
    state = {
        name.partition(".")[2]: tensor[device]
        for name, tensor in net.unpack(weights).items()
        if name.startswith(part)
    }
    made.load_state_dict(state)
    return made


def test_sizes_of_the_paper() -> None:
    assert DeviceNet(64, 64).size == 63_873
    assert DeviceNet(100, 0).size == 62_501
    assert DeviceNet(200, 0, layers=2).size == 727_401
    server = GraphNetwork(64, 256, 128, 64)
    assert count_parameters(server) == 1_023_680
    # The last global update, which reaches no output, is what the authors' code has more.
    assert count_parameters(server) + count_parameters(Mlp((128, 128, 192), 256, 128)) == 1_237_312


@pytest.mark.parametrize("layers", [1, 2])
def test_encoder_is_torchs_gru(layers: int) -> None:
    torch.manual_seed(0)
    net = DeviceNet(5, 3, layers)
    weights = torch.randn(2, net.size) * 0.3
    values, times = torch.randn(2, 4, 6), torch.rand(2, 4, 6)
    found = net.encode(weights, values, times)
    for device in range(2):
        inputs = torch.stack((values[device], times[device]), -1)
        _, last = gru(net, weights, "encoder", device)(inputs)
        torch.testing.assert_close(found[device], last.transpose(0, 1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_forced_decoder_is_torchs_gru_on_shifted_inputs(layers: int) -> None:
    torch.manual_seed(0)
    net = DeviceNet(4, 3, layers)
    weights = torch.randn(2, net.size) * 0.3
    state = torch.randn(2, 3, layers, net.width)
    value, time = torch.randn(2, 3), torch.rand(2, 3)
    truth, times = torch.randn(2, 3, 5), torch.rand(2, 3, 5)
    forced = torch.ones(2, 3, 5, dtype=torch.bool)
    found = net.decode(weights, state, (value, time), times, truth, forced)
    for device in range(2):
        values = torch.cat((value[device, :, None], truth[device, :, :-1]), 1)
        clock = torch.cat((time[device, :, None], times[device, :, :-1]), 1)
        outputs, _ = gru(net, weights, "decoder", device)(
            torch.stack((values, clock), -1), state[device].transpose(0, 1).contiguous()
        )
        parts = net.unpack(weights)
        wanted = outputs @ parts["output.weight"][device].mT + parts["output.bias"][device]
        torch.testing.assert_close(found[device], wanted[..., 0], atol=1e-6, rtol=1e-6)


def test_free_decoder_feeds_on_itself_and_never_reads_the_last_time() -> None:
    torch.manual_seed(0)
    net = DeviceNet(4, 0)
    weights = torch.randn(1, net.size) * 0.3
    state, last = torch.randn(1, 3, 1, 4), (torch.randn(1, 3), torch.rand(1, 3))
    times = torch.rand(1, 3, 5)
    free = net.decode(weights, state, last, times)
    forced = net.decode(weights, state, last, times, free, torch.ones(1, 3, 5, dtype=torch.bool))
    torch.testing.assert_close(free, forced)
    other = times.clone()
    other[..., -1] = 9
    assert torch.equal(net.decode(weights, state, last, other), free)
    other[..., 0] = 9
    assert not torch.equal(net.decode(weights, state, last, other), free)


def slow_graph_network(server: GraphNetwork, x: Tensor, network: object) -> Tensor:
    """Loops over edges and nodes, with the plain concatenations of the paper; one window."""
    from mlkit.tasks.forecast.graph import Graph

    assert isinstance(network, Graph)

    def run(update: Mlp, *inputs: Tensor) -> Tensor:
        hidden = torch.relu(update.first(torch.cat(inputs)))
        return update.third(torch.relu(update.second(hidden)))

    nodes, whole = list(x), torch.zeros_like(x[0])
    edges = [weight[None] for weight in network.weight]
    pairs = list(zip(network.source.tolist(), network.target.tolist(), strict=True))
    for layer in range(2):
        edge, node = server.edge_updates[layer], server.node_updates[layer]
        new_edges = [
            run(edge, nodes[i], nodes[j], e, whole) for (i, j), e in zip(pairs, edges, strict=True)
        ]
        new_nodes = []
        for j, own in enumerate(nodes):
            total = torch.zeros_like(new_edges[0])
            for (_, target), message in zip(pairs, new_edges, strict=True):
                total = total + message if target == j else total
            new_nodes.append(run(node, own, total, whole))
        if layer == 0:
            pooled = torch.stack(new_nodes).sum(0), torch.stack(new_edges).sum(0)
            new_whole = run(server.global_updates[0], *pooled, whole)
            whole = torch.cat((new_whole, whole))
        edges = [torch.cat((new, old)) for new, old in zip(new_edges, edges, strict=True)]
        nodes = [torch.cat((new, old)) for new, old in zip(new_nodes, nodes, strict=True)]
    return server.readout(torch.stack(nodes))


def test_graph_network_is_the_loop_over_edges() -> None:
    torch.manual_seed(0)
    network, server = graph(), GraphNetwork(3, 7, 4, 5)
    x = torch.randn(6, 2, 2, 3)
    found = server(x, network)
    assert found.shape == (6, 2, 2, 5)
    for window in range(2):
        for layer in range(2):  # B and L are batch dimensions
            wanted = slow_graph_network(server, x[:, window, layer], network)
            torch.testing.assert_close(found[:, window, layer], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("aggregate", ["sum", "mean", "none"])
def test_relabelled_nodes_give_relabelled_outputs(aggregate: str) -> None:
    torch.manual_seed(0)
    server = GraphNetwork(3, 7, 4, 5, aggregate)  # type: ignore[arg-type]
    network, x, order = graph(), torch.randn(6, 2, 1, 3), torch.randperm(6)
    dense = network.dense()
    moved = from_dense(dense[order][:, order])
    torch.testing.assert_close(server(x[order], moved), server(x, network)[order], atol=1e-5,
                               rtol=1e-5)  # fmt: skip


def test_two_graphs_side_by_side() -> None:
    torch.manual_seed(0)
    dense = graph().dense()
    double, x = from_dense(torch.block_diag(dense, dense)), torch.randn(6, 2, 1, 3)
    both = torch.cat((x, x + 1))
    apart = GraphNetwork(3, 7, 4, 5, "none")
    wanted = torch.cat((apart(x, graph()), apart(x + 1, graph())))
    torch.testing.assert_close(apart(both, double), wanted, atol=1e-5, rtol=1e-5)
    for aggregate, same in (("mean", True), ("sum", False)):
        server = GraphNetwork(3, 7, 4, 5, aggregate)  # type: ignore[arg-type]
        found, alone = server(torch.cat((x, x)), double)[:6], server(x, graph())
        # The paper's sum depends on the size of the graph; the mean of two copies does not.
        assert torch.allclose(found, alone, atol=1e-5) is same


def test_weights_are_features_and_lonely_nodes_hear_nothing() -> None:
    torch.manual_seed(0)
    server = GraphNetwork(3, 7, 4, 5, "none")
    dense = torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 0]])
    network = from_dense(dense)
    x = torch.randn(3, 1, 1, 3)
    without = from_dense(dense * torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]))
    zeroed = type(network)(network.source, network.target, network.weight * 0, 3)
    assert not torch.allclose(server(x, zeroed)[1], server(x, without)[1])
    changed = x.clone()
    changed[:2] += 1
    assert torch.equal(server(changed, network)[2], server(x, network)[2])


def test_teacher_probability() -> None:
    values = {0: 0.999001, 5000: 0.870767, 20_000: 2.0611e-6}
    for step, wanted in values.items():
        assert teacher_probability(step, 1000) == pytest.approx(wanted, rel=1e-4)
    assert teacher_probability(3, 1) == pytest.approx(0.0474259, rel=1e-5)
    assert teacher_probability(0, 7) == pytest.approx(7 / 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert teacher_probability(10**6, 1) < 1e-300
    falling = [teacher_probability(step, 50) for step in range(0, 2000, 10)]
    assert falling == sorted(falling, reverse=True)
    assert teacher_probability(5, 0) == 0
    assert math.isfinite(teacher_probability(10**9, 1e-3))
