"""What a node computes: independent optimizers, gradients of split learning, masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mlkit.tasks.forecast.node import NodeGroup

from .helpers import NAMES, WINDOWS, engine, graph, group, series, times


def test_stacked_adam_is_a_torch_adam_per_node() -> None:
    ours = engine(rounds=1)
    found = ours.transport.group.train(
        epochs=2, first_epoch=0, batch=16, lr=0.01, step=0, decay=20.0
    )["weights"]
    for node, name in enumerate(NAMES):
        alone = engine(values=None, transport=_one(node), network=graph(1))
        alone.transport.group.standardise(ours.scaler.mean, ours.scaler.std)
        alone.transport.group.take(ours.weights)
        weights = _plain_training(alone.transport.group, ours.weights)
        torch.testing.assert_close(found[node], weights[0], atol=1e-6, rtol=1e-5), name


def _one(node: int) -> Any:
    from mlkit.tasks.forecast.transport import LocalTransport

    return LocalTransport(NodeGroup([NAMES[node]], series()[node : node + 1], times()))


def _plain_training(group: NodeGroup, weights: torch.Tensor) -> torch.Tensor:
    """Two epochs of one node with torch.optim.Adam, the loss written out."""
    own = weights.clone().requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.01)
    step = 0
    for epoch in range(2):
        for ids, draws in group._batches(slice(0, 1), epoch, 16):
            forced = draws <= 20 / (20 + torch.exp(torch.tensor(step / 20)))
            starts = group.starts["train"][ids]
            values, clock = group.windows.past(starts)
            ahead, targets, _ = group.windows.future(starts)
            states = group.net.encode(own, values, clock)
            state = torch.cat((states, torch.zeros_like(states)), -1)
            out = group.net.decode(
                own, state, (values[..., -1], clock[..., -1]), ahead, targets,
                forced[:, None].expand(targets.shape),
            )  # fmt: skip
            optimizer.zero_grad()
            (out - targets).square().mean().backward()
            optimizer.step()
            step += 1
    return own.detach()


@pytest.mark.parametrize(
    "parts", [[[0, 1, 2, 3, 4, 5]], [[0], [1, 2], [3, 4, 5]], [[5, 0], [3, 1, 4, 2]]]
)
def test_split_gradient_is_the_monolithic_one_for_any_grouping(parts: list[list[int]]) -> None:
    values = series()
    values[2, 20:25] = torch.nan
    whole = engine(values=values)
    whole.collect_encodings("train")
    windows = whole.transport.group
    from mlkit.tasks.forecast.node import server_order

    ids = server_order(3, 0, 0, whole.lengths["train"])[:9]
    starts = windows.starts["train"][ids]
    # All at once: autograd through nodes and server.
    past, future = windows.windows.past(starts[None]), windows.windows.future(starts[None])
    states = windows.states(whole.weights, past)
    g = whole.server(states, whole.graph)
    forced = torch.tensor([True, False, True, False])
    out = windows.decode_states(
        whole.weights, torch.cat((states, g), -1), past, future, forced.expand(future[0].shape)
    )
    loss = ((out - future[1]).square() * future[2]).sum() / future[2].sum()
    wanted = torch.autograd.grad(loss, list(whole.server.parameters()))
    # By exchange: g down, dLoss/dg up, from groups that know nothing of each other.
    g = whole.server(whole.encodings["train"][:, ids], whole.graph)
    gradients, count = torch.zeros_like(g), 0.0
    for nodes in parts:
        part = NodeGroup([NAMES[i] for i in nodes], values[nodes], times())
        part.configure(**vars(whole.settings))
        part.standardise(whole.scaler.mean, whole.scaler.std)
        part.take(whole.weights)
        reply = part.decode_gradient(
            g[nodes].detach(), round=0, epoch=0, begin=0, forced=forced.tolist()
        )
        gradients[nodes] = reply["gradients"]
        count += float(reply["count"].sum())
    found = torch.autograd.grad(g, list(whole.server.parameters()), gradients / count)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_missing_targets_change_nothing() -> None:
    """A gap in the truth weighs nothing: its value may be anything."""
    values = series()
    values[:, 40] = torch.nan
    first = engine(values=values)
    second = engine(values=values)
    second.transport.group.windows.targets[:, 40] = 1e6
    assert first.round() == second.round()
    assert torch.equal(first.weights, second.weights)


def test_embeddings_of_zero_are_a_plain_wide_decoder() -> None:
    ours = engine()
    nodes = ours.transport.group
    starts = nodes.starts["test"]
    zero = torch.zeros(6, len(starts), 1, 5)
    found = nodes.forecast(starts, zero)
    past = nodes.windows.past(starts[None])
    ahead = nodes.windows.future(starts[None])[0]
    states = nodes.states(ours.weights, past)
    state = torch.nn.functional.pad(states, (0, 5)).flatten(0, 1)[None]
    last = tuple(t[..., -1].flatten(0, 1)[None] for t in past)
    out = ours.net.decode(ours.weights, state, last, ahead.flatten(0, 1)[None])
    wanted = ours.scaler.restore(out.view(found.shape))
    torch.testing.assert_close(found, wanted)


def test_a_silent_server_makes_cnfgnn_a_federated_gru() -> None:
    ours = engine(server_epochs=0)
    torch.nn.init.zeros_(ours.server.readout.weight)
    torch.nn.init.zeros_(ours.server.readout.bias)
    plain = engine("fedavg", begun=False)
    # The same network, never fed by a server.
    plain.settings, plain.net = ours.settings, ours.net
    plain.weights = ours.weights.clone()
    plain.begin()
    for _ in range(2):
        ours.round()
        plain.round()
    torch.testing.assert_close(ours.weights, plain.weights)


def test_encodings_are_clipped_and_noised_by_a_secret() -> None:
    ours = engine()
    settings = {**vars(ours.settings), "encoding_clip": 0.1}

    def upload(secret: int | None, tag: int = 0, **more: float) -> torch.Tensor:
        nodes = NodeGroup(NAMES, series(), times(), secret)
        nodes.configure(**{**settings, **more})
        nodes.standardise(ours.scaler.mean, ours.scaler.std)
        nodes.take(ours.weights)
        return nodes.encode("train", 0, 20, tag)["encodings"]

    clipped = upload(None)
    assert float(clipped.flatten(2).norm(dim=-1).max()) <= 0.1 + 1e-6
    noise = upload(None, encoding_noise=2.0) - clipped
    assert float(noise.std()) == pytest.approx(0.2, rel=0.1)
    again = [upload(*key, encoding_noise=2.0) for key in ((None, 0), (7, 0), (7, 0), (7, 1))]
    assert torch.equal(again[1], again[2])
    assert not torch.allclose(again[0], again[1])
    assert not torch.allclose(again[1], again[3])


def test_personal_copies_are_chosen_by_each_nodes_own_validation() -> None:
    ours = engine(rounds=2)
    ours.round()
    shared = copy.deepcopy(ours.transport.group.weights)
    before = ours.evaluate("valid")
    found = ours.personalise(3)
    torch.testing.assert_close(found["before"], before, rtol=1e-5, atol=1e-6)  # other batches
    error = [found[name][..., 0].sum(1) for name in ("before", "after")]
    assert bool((error[1] <= error[0]).all())
    torch.testing.assert_close(ours.evaluate("valid"), found["after"], rtol=1e-5, atol=1e-6)
    own = ours.transport.group.personal
    for node, epoch in enumerate(found["epoch"].tolist()):
        assert torch.equal(own[node], shared[0]) is (epoch == 0)
    assert torch.equal(ours.transport.group.weights, shared)  # for sensors never seen


def test_turns_of_nodes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlkit.tasks.forecast import node

    whole = engine()
    log = whole.round()
    monkeypatch.setattr(node, "ROWS_AT_ONCE", 16)  # one node at a time
    turns = engine()
    assert turns.round()["loss"] == pytest.approx(log["loss"], rel=1e-6)
    torch.testing.assert_close(whole.weights, turns.weights, atol=1e-6, rtol=1e-5)


def test_sizes() -> None:
    nodes = group()
    found = nodes.configure(**vars(engine().settings))
    assert found["lengths"].tolist() == [[57, 3, 6]] * 6
    assert found["windows"].tolist() == [57] * 6
    assert WINDOWS.history + WINDOWS.horizon == 10
