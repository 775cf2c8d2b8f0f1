"""The three propagation rules against dense matrices, and the laws of section 8a."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.zeroshot.checkpoint import predict_rows
from mlkit.tasks.zeroshot.config import NetworkOptions
from mlkit.tasks.zeroshot.graph import Graph
from mlkit.tasks.zeroshot.links import plan
from mlkit.tasks.zeroshot.losses import Regression, row_loss
from mlkit.tasks.zeroshot.model import RowNetwork
from mlkit.tasks.zeroshot.taxonomy import Taxonomy

from .helpers import COUNT, EDGES, dense_groups, graph, network, normalised, random_dag

VARIANTS = ("adgpm", "dgpm", "gpm", "mlp", "gcnz")
ALL = np.arange(COUNT)


def options(variant: str, groups: int = 4, **more: object) -> NetworkOptions:
    return NetworkOptions(variant=variant, hidden=8, groups=groups, **more)  # type: ignore[arg-type]


def rows(
    net: RowNetwork, chosen: NetworkOptions, g: Graph, nodes: np.ndarray | None = None
) -> Tensor:
    return predict_rows(net, g, chosen, np.arange(len(g.taxonomy)) if nodes is None else nodes)


def dense(net: RowNetwork, chosen: NetworkOptions, g: Graph) -> Tensor:
    """The rules as they are written: A (X W), group by group, on dense matrices."""
    count = len(g.taxonomy)
    one = torch.eye(count)
    edge = torch.zeros(count, count)
    edge[g.taxonomy.edges[:, 0], g.taxonomy.edges[:, 1]] = 1
    around = edge + edge.T + one
    groups = dense_groups(g.pairs, chosen.groups if chosen.variant == "adgpm" else 0)
    root = around.sum(1).rsqrt()
    first = {
        "mlp": [one],
        "gpm": [normalised(around)],
        "gcnz": [root[:, None] * around * root],
        "dgpm": [normalised(groups[0].T)],
        "adgpm": [normalised(a.T) for a in groups],
    }[chosen.variant]
    last = {"dgpm": [normalised(groups[0])], "adgpm": [normalised(a) for a in groups]}.get(
        chosen.variant, first
    )
    x = g.vectors
    for i, layer in enumerate(net.layers):
        is_last = i == len(net.layers) - 1
        matrices = last if is_last else first
        if layer.attention is None:
            x = matrices[0] @ (x @ layer.weight) + layer.bias
        else:
            alpha = layer.attention.softmax(0)
            parts = [
                a * m @ (x @ layer.weight + layer.bias)
                for a, m in zip(alpha, matrices, strict=True)
            ]
            x = torch.stack(parts).sum(0)
            if chosen.renormalise:
                x = x / sum(
                    a * m.sum(1, keepdim=True) for a, m in zip(alpha, matrices, strict=True)
                )
        x = x if is_last else F.leaky_relu(x, 0.2)
    return F.normalize(x, dim=1).detach()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("renormalise", [False, True])
def test_the_rules_are_those_of_dense_matrices(variant: str, renormalise: bool) -> None:
    chosen = options(variant, groups=2, renormalise=renormalise)
    for seed in range(3):
        g = graph(seed, random_dag(17, seed), 17)
        net = network(chosen)
        torch.testing.assert_close(rows(net, chosen, g), dense(net, chosen, g))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_restriction_is_exact(variant: str) -> None:
    """The asked rows alone, with what they depend on, against all rows."""
    chosen, g = options(variant), graph(3, random_dag(40, 3), 40)
    net = network(chosen)
    every = rows(net, chosen, g)
    for asked in ([7], [0, 5, 39], list(range(0, 40, 3))):
        found = rows(net, chosen, g, np.array(asked))
        torch.testing.assert_close(found, every[asked], atol=1e-6, rtol=0)


def test_the_restriction_needs_less() -> None:
    g = graph()
    small = plan("adgpm", g.pairs, EDGES, np.array([8]), 4, 2)
    assert small.nodes.tolist() == [7, 8, 9]
    lone = plan("adgpm", g.pairs, EDGES, np.array([10]), 4, 2)
    assert lone.nodes.tolist() == [10]


def test_groups_partition_the_pairs_and_are_transposed() -> None:
    g = graph()
    for groups in (0, 1, 4):
        up = plan("adgpm", g.pairs, EDGES, ALL, groups, 2).layers
        both = []
        for links in up:
            row = torch.arange(COUNT).repeat_interleave(
                torch.diff(links.starts, append=torch.tensor([len(links.columns)]))
            )
            both.append(
                list(zip(row.tolist(), links.columns.tolist(), links.groups.tolist(), strict=True))
            )
            for k in range(groups + 1):
                sums = torch.zeros(COUNT).index_add_(0, row, links.values * (links.groups == k))
                assert ((sums - 1).abs() < 1e-6).logical_or(sums == 0).all()
        down, upward = both
        assert sorted((c, r, k) for r, c, k in down) == sorted(upward)
        assert len({(r, c) for r, c, _ in upward}) == len(upward) == len(g.pairs.below)


def test_one_group_is_dgpm_and_no_graph_is_the_mlp() -> None:
    g = graph()
    one, plain = options("adgpm", groups=0), options("dgpm")
    a, b = network(one), network(plain)
    b.load_state_dict({k: v for k, v in a.state_dict().items() if "attention" not in k})
    torch.testing.assert_close(rows(a, one, g), rows(b, plain, g))
    alone = graph(0, np.zeros((0, 2), dtype=np.int64))
    mlp = network(options("mlp"))
    mlp.load_state_dict(b.state_dict())
    wanted = rows(mlp, options("mlp"), alone)
    for variant in ("gpm", "dgpm"):
        torch.testing.assert_close(rows(b, options(variant), alone), wanted)
    torch.testing.assert_close(rows(a, one, alone), wanted)
    # With more groups alpha_0 scales what is inside; it cancels only without a second bias.
    deep = network(options("adgpm"))
    with torch.no_grad():
        deep.layers[1].bias.zero_()
    shallow = network(options("mlp"))
    shallow.load_state_dict({k: v for k, v in deep.state_dict().items() if "attention" not in k})
    torch.testing.assert_close(
        rows(deep, options("adgpm"), alone), rows(shallow, options("mlp"), alone)
    )
    with torch.no_grad():
        deep.layers[1].bias.fill_(3.0)
        shallow.layers[1].bias.fill_(3.0)
    other = rows(shallow, options("mlp"), alone)
    assert not torch.allclose(rows(deep, options("adgpm"), alone), other)


def test_attention_starts_uniform_and_ignores_constants() -> None:
    chosen, g = options("adgpm"), graph()
    fresh = RowNetwork(5, 4, chosen)
    assert fresh.shares() == [[pytest.approx(0.2)] * 5] * 2
    net = network(chosen)
    before = rows(net, chosen, g)
    with torch.no_grad():
        for layer in net.layers:
            layer.attention += 5.0
    torch.testing.assert_close(rows(net, chosen, g), before)
    assert [sum(part) for part in net.shares()] == pytest.approx([1, 1])
    assert RowNetwork(5, 4, options("gpm")).shares() == [[], []]


@pytest.mark.parametrize("variant", VARIANTS)
def test_renaming_nodes_permutes_the_rows(variant: str) -> None:
    chosen, g = options(variant), graph()
    net = network(chosen)
    order = np.random.default_rng(5).permutation(COUNT)
    new = np.argsort(order)  # node order[i] becomes i
    vectors = g.vectors[torch.from_numpy(order)]
    taxonomy = Taxonomy(g.taxonomy.ids, g.taxonomy.lemmas, new[EDGES])
    moved = Graph(taxonomy, vectors, g.seen)
    torch.testing.assert_close(
        rows(net, chosen, moved), rows(net, chosen, g)[torch.from_numpy(order)]
    )


def with_node(g: Graph, parent: int) -> Graph:
    taxonomy = Taxonomy(
        (*g.taxonomy.ids, "new"),
        (*g.taxonomy.lemmas, ("new",)),
        np.vstack((g.taxonomy.edges, [(COUNT, parent)])),
    )
    return Graph(taxonomy, torch.cat((g.vectors, g.vectors.flip(0)[:1])), g.seen)


@pytest.mark.parametrize("variant", ["adgpm", "dgpm", "gpm"])
def test_who_depends_on_whom(variant: str) -> None:
    chosen, g = options(variant), graph()
    net = network(chosen)
    before = rows(net, chosen, g)
    elsewhere = rows(net, chosen, with_node(g, 7))[:COUNT]
    changed = (elsewhere - before).abs().amax(1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [7, 8, 9]
    # A sibling of 4, two edges away: through the parent's average.
    near = rows(net, chosen, with_node(g, 1))[:COUNT]
    moved = set(((near - before).abs().amax(1) > 1e-6).nonzero()[:, 0].tolist())
    two_edges = {0, 1, 3, 4}
    shares_an_ancestor = {0, 1, 2, 3, 4, 5, 6}
    assert moved == (two_edges if variant == "gpm" else shares_an_ancestor)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_have_norm_one_and_gradients_are_right(variant: str) -> None:
    chosen, g = options(variant, dropout=0.0), graph()
    net = network(chosen).double()
    torch.testing.assert_close(rows(net.float(), chosen, g).norm(dim=1), torch.ones(COUNT))
    layers = len(net.layers)
    links = plan(variant, g.pairs, EDGES, g.seen, 4, layers)
    net = net.double()
    x = g.vectors.double()[links.nodes]
    state = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}

    def loss(*values: Tensor) -> Tensor:
        call = dict(zip(state, values, strict=True))
        return (
            torch.func.functional_call(net, call, (x, links))
            .square()
            .matmul(torch.arange(4.0, dtype=torch.float64))
            .sum()
        )

    assert torch.autograd.gradcheck(loss, tuple(state.values()), atol=1e-5)


def test_the_loss_is_the_mean_of_one_minus_cosine() -> None:
    a, b = F.normalize(torch.randn(7, 5), dim=1), F.normalize(torch.randn(7, 5), dim=1)
    torch.testing.assert_close(row_loss(a, b), (1 - (a * b).sum(1)).mean())
    assert row_loss(a, a) == 0
    eye = torch.eye(6)
    assert row_loss(eye[:3], eye[3:]) == 1


def test_the_decay_in_the_loss_is_adams_coupled_one() -> None:
    chosen, g = options("adgpm", dropout=0.0), graph()
    links = plan("adgpm", g.pairs, EDGES, g.seen, 4, 2)
    targets = F.normalize(torch.randn(len(g.seen), 4), dim=1)
    ours, theirs = network(chosen).train(), network(chosen).train()
    decay = 5e-2
    objective = Regression(ours, g.vectors[links.nodes], links, targets, decay)
    one = torch.optim.AdamW(ours.parameters(), 1e-2, weight_decay=0.0)
    other = torch.optim.Adam(theirs.parameters(), 1e-2, weight_decay=decay)
    for _ in range(5):
        one.zero_grad()
        objective(torch.zeros(1))["loss"].backward()
        one.step()
        other.zero_grad()
        row_loss(theirs(g.vectors[links.nodes], links), targets).backward()
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_is_for_training_alone() -> None:
    chosen, g = options("adgpm"), graph()
    links = plan("adgpm", g.pairs, EDGES, ALL, 4, 2)
    net = network(chosen)
    x = g.vectors[links.nodes]
    assert torch.equal(net(x, links), net(x, links))
    net.train()
    assert not torch.equal(net(x, links), net(x, links))
