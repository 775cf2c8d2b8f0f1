from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from mlkit.core.errors import DataError, DivergedError
from mlkit.tasks.forecast.config import FederationOptions, Method
from mlkit.tasks.forecast.cost import Sizes, bytes_per_round, device_flops, server_flops
from mlkit.tasks.forecast.node import Settings
from mlkit.tasks.forecast.sums import rmse
from mlkit.tasks.forecast.transport import LocalTransport, Reply

from .helpers import engine, graph, group, series


class Unruly(LocalTransport):
    """Nodes that are away for some calls, or send nonsense."""

    def __init__(self, values: Tensor | None = None) -> None:
        super().__init__(group(values))
        self.away: set[int] = set()
        self.spoil: dict[int, float] = {}
        self.returned = torch.zeros(len(self.names), dtype=torch.bool)

    def call(self, operation: str, **arguments: Any) -> Reply:
        reply = super().call(operation, **arguments)
        tensors = {name: tensor.clone() for name, tensor in reply.tensors.items()}
        for node in self.away:
            reply.alive[node] = False
            for tensor in tensors.values():
                tensor[node] = 0
        if operation == "train":
            for node, factor in self.spoil.items():
                tensors["weights"][node] *= factor
        return Reply(tensors, reply.alive)

    def newcomers(self) -> Tensor:
        new = super().newcomers() | self.returned
        self.returned = torch.zeros_like(new)
        return new


def test_one_node_federation_is_ordinary_training() -> None:
    one = engine("fedavg", series(1), network=graph(1))
    local = engine("local", series(1), network=graph(1))
    for _ in range(2):
        assert one.round() == local.round()
    assert torch.equal(one.weights, local.weights)


def test_identical_nodes_average_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    values = series(1).repeat(3, 1)
    for made in ("fedavg", "local"):
        federated = engine(made, values, network=graph(3), begun=False)
        keys = [federated.transport.group._keys[0]] * 3  # the same shuffles
        monkeypatch.setattr(federated.transport.group, "_keys", keys)
        federated.begin()
        federated.round()
        if made == "fedavg":
            shared = federated.weights
        else:
            torch.testing.assert_close(federated.weights, shared.expand(3, -1))


def test_one_step_of_fedavg_with_sgd_is_one_step_on_the_mean_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sgd(parameters: list[Tensor], lr: float, fused: bool) -> Any:
        return torch.optim.SGD(parameters, lr=lr)

    monkeypatch.setattr(torch.optim, "Adam", sgd)
    federated = engine("fedavg", batch_size=1000)
    central = engine("central", batch_size=1000)
    assert torch.equal(federated.weights, central.weights)
    federated.options = federated.options.model_copy(update={"teacher": 0.0})
    central.options = central.options.model_copy(update={"teacher": 0.0})
    federated.round()
    central.round()
    torch.testing.assert_close(federated.weights, central.weights.detach(), atol=1e-7, rtol=1e-6)


def test_every_method_learns() -> None:
    values = 50 + 10 * torch.sin(torch.arange(90) / 4 + torch.arange(6)[:, None])
    methods = get_args(Method)
    assert len(methods) == 9
    for method in methods:
        made = engine(method, values, lr=0.02, teacher=0.0)
        before = rmse(made.evaluate("valid"))
        losses = [made.round()["loss"] for _ in range(4)]
        assert losses[-1] < losses[0], method
        assert rmse(made.evaluate("valid")) < before, method


def test_fmtl_pulls_towards_neighbours_by_their_weights() -> None:
    ours = engine("fmtl")
    ours.weights = torch.randn_like(ours.weights)
    extra = ours._neighbours()
    dense = ours.graph.dense().fill_diagonal_(0)
    for node in range(6):
        found = sum(
            float(p) * float((ours.weights[node] - a).norm())
            for a, p in zip(extra["anchors"][node], extra["pulls"][node], strict=True)
        )
        wanted = sum(
            float(dense[node, j]) * float((ours.weights[node] - ours.weights[j]).norm())
            for j in range(6)
        )
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_node_may_leave_and_come_back() -> None:
    transport = Unruly()
    ours = engine(transport=transport)
    ours.round()
    last = ours.encodings["train"][4].clone()
    transport.away = {4}
    log = ours.round()
    assert all(torch.isfinite(torch.tensor(list(log.values()))))
    assert torch.equal(ours.encodings["train"][4], last)  # its last upload goes on serving
    sums = ours.evaluate("valid")
    assert bool((sums[4] == 0).all())
    assert bool(sums.isfinite().all())
    transport.away = set()
    transport.returned[4] = True
    kept = ours.embeddings[4].clone()
    seen: list[str] = []
    real = transport.call
    transport.call = lambda op, **kw: (seen.append(op), real(op, **kw))[1]  # type: ignore[method-assign]
    ours.welcome()
    assert seen == ["configure", "standardise", "take", "keep"]
    assert torch.equal(transport.group.embeddings[4], kept)
    ours.round()
    assert bool((ours.evaluate("valid")[4, :, 3] > 0).all())


def test_bad_updates_are_refused_by_name() -> None:
    transport = Unruly()
    said: list[str] = []
    ours = engine(transport=transport)
    ours.warn = said.append
    transport.spoil = {2: float("nan"), 5: 1e4}
    ours.round()
    assert bool(ours.weights.isfinite().all())
    assert len(ours.rejected) == 2
    assert "node n2: its update holds NaN" in ours.rejected[0]
    assert "node n5: its update has norm" in ours.rejected[1]
    assert "more than 10 times the median" in said[1]
    transport.spoil = dict.fromkeys(range(6), float("nan"))
    with pytest.raises(DivergedError, match="no node sent a usable update"):
        ours.round()


def test_nodes_of_different_length_are_refused() -> None:
    class Short(LocalTransport):
        def call(self, operation: str, **arguments: Any) -> Reply:
            reply = super().call(operation, **arguments)
            if operation == "configure":
                reply.tensors["lengths"][1] -= 1
            return reply

    with pytest.raises(DataError, match="differ in length"):
        engine(transport=Short(group()))


def test_unseen_nodes_are_never_read() -> None:
    """The engine of the seen nodes alone gets their rows; NaN elsewhere changes nothing."""
    chosen = torch.tensor([0, 2, 3])
    spoiled = series()
    spoiled[[1, 4, 5]] = torch.nan
    logs = [
        engine(values=values[chosen], network=graph().induced(chosen)).round()
        for values in (series(), spoiled)
    ]
    assert logs[0] == logs[1]


def test_participation_and_private_averages() -> None:
    federation = FederationOptions(participation=0.5, dp_clip=0.5, dp_noise=1.0)
    ours = engine(federation=federation)
    drawn = [ours._participants().sum() for ours.rounds in range(200)]
    assert float(torch.stack(drawn).float().mean()) == pytest.approx(3, abs=0.4)
    ours.rounds = 0
    assert ours.spent() == 0
    costs = []
    for _ in range(2):
        ours.round()
        costs.append(ours.spent())
    assert 0 < costs[0] < costs[1]
    assert engine().spent() is None
    robust = engine(federation=FederationOptions(aggregate="median"))
    robust.round()
    assert bool(robust.weights.isfinite().all())


@pytest.mark.parametrize("method", ["cnfgnn", "fedavg", "at", "local"])
def test_bytes_against_the_formula(method: str) -> None:
    ours = engine(method, server_epochs=2, model={"hidden": 32})
    ours.round()
    ours.evaluate("valid")
    before = ours.transport.traffic.total
    ours.round()
    ours.evaluate("valid")
    after = ours.transport.traffic.total
    sizes = Sizes(6, 6, len(ours.graph), ours.lengths["train"], ours.lengths["valid"])
    down, up = bytes_per_round(method, ours.settings, sizes, 2)
    if method in ("at", "local"):  # the simulation keeps a record of the private weights
        down, up = (size + 4 * 6 * ours.net.size for size in (down, up))
    assert after[0] - before[0] == pytest.approx(down, rel=0.02)
    assert after[1] - before[1] == pytest.approx(up, rel=0.02)


def test_costs_of_the_paper() -> None:
    plain = {"stride": 1, "eval_stride": 1, "seed": 0, "history": 12, "horizon": 12}
    paper = Settings(hidden=64, embedding=64, layers=1, **plain)
    sizes = Sizes(207, 207, 1722, 23_974, 0)
    down, up = bytes_per_round("cnfgnn", paper, sizes, 1)
    encoding = 4 * 207 * 23_974 * 64
    assert down + up == 4 * encoding + 8 * 207 * 63_873
    assert encoding == pytest.approx(1.27e9, rel=0.01)
    assert bytes_per_round("fedavg", paper, sizes, 1) == (4 * 207 * 63_873,) * 2
    assert device_flops(paper) == pytest.approx(1.51e6, rel=0.01)
    assert device_flops(Settings(hidden=100, embedding=0, layers=1, **plain)) == pytest.approx(
        1.47e6, rel=0.01
    )
    # 148k + 279k multiply-adds per edge, and node terms.
    per_edge = server_flops(paper, 207, 1723, 256, 128) - server_flops(paper, 207, 1722, 256, 128)
    assert per_edge / 2 == pytest.approx(148e3 + 279e3, rel=0.01)


def test_state_goes_on_where_it_was() -> None:
    for method in ("cnfgnn", "central-gn"):
        whole, cut = engine(method), engine(method)
        for _ in range(3):
            whole.round()
        cut.round()
        resumed = engine(method, begun=False)
        resumed.load_state_dict(cut.state_dict())
        resumed.begin()
        for _ in range(2):
            resumed.round()
        assert torch.equal(whole.weights, resumed.weights)
        for one, two in zip(whole.server.parameters(), resumed.server.parameters(), strict=True):
            assert torch.equal(one, two)
    with pytest.raises(DataError, match="another network"):
        engine(model={"hidden": 4}, begun=False).load_state_dict(whole.state_dict())
