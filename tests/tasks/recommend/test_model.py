from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mlkit.tasks.recommend.config import ModelOptions
from mlkit.tasks.recommend.model import (
    DynamicRouting,
    Gru,
    MeanOfItems,
    Mind,
    Popular,
    Recommender,
    SelfAttentive,
    route,
    squash,
)

from .helpers import histories

VARIANTS = ("sa", "dr", "mind", "dnn", "gru4rec")
ROWS = histories([[3, 1, 4], [5], [2, 6, 5, 3, 1, 2]], 6)


def make(variant: str, **options: float) -> Recommender:
    torch.manual_seed(0)
    model = Recommender(8, ModelOptions(variant=variant, dim=5, max_history=6, **options))
    nn.init.normal_(model.table.weight)  # Glorot's small numbers would hide differences
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant: str) -> None:
    model = make(variant)
    with torch.no_grad():
        whole = model(ROWS)
        alone = model(ROWS[:1, :3])
        vectors = model.table(ROWS)
        garbage = torch.where((ROWS > 0)[:, :, None], vectors, 9.0)
        assert torch.equal(whole, model.encode(garbage, ROWS))
    torch.testing.assert_close(whole[:1], alone)
    assert whole.shape == (3, 1 if variant in ("dnn", "gru4rec") else 4, 5)
    assert bool(whole.isfinite().all())


def test_parameter_counts_of_the_paper() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(SelfAttentive(64, 4, 20)) == 1_280 + 16_640 + 1_028
    assert count(DynamicRouting(64, 4, 20, 1.0)) == 327_680
    assert count(Mind(64, 4, 20, False)) == 4_160
    assert count(Mind(64, 4, 20, True)) == 2 * 4_160
    assert count(MeanOfItems(64)) == 4_160
    assert count(Gru(64)) == 24_768


def test_self_attention_is_its_formula() -> None:
    model = make("sa")
    encoder = model.encoder
    assert isinstance(encoder, SelfAttentive)
    with torch.no_grad():
        for row, found in zip(ROWS, model(ROWS), strict=True):
            h = model.table(row[row > 0])
            p = encoder.positions[: len(h)]
            raw = torch.tanh((h + p) @ encoder.hidden.weight.T + encoder.hidden.bias)
            a = (raw @ encoder.scores.weight.T + encoder.scores.bias).softmax(0)
            torch.testing.assert_close(found, a.T @ h)


def test_order_matters_only_through_positions() -> None:
    swapped = histories([[4, 3, 1], [5], [2, 1, 3, 5, 6, 2]], 6)
    sa, dr = make("sa"), make("dr")
    with torch.no_grad():
        assert not torch.allclose(sa(ROWS), sa(swapped))
        assert not torch.allclose(dr(ROWS), dr(swapped))
        sa.encoder.positions.zero_()
        dr.encoder.maps.copy_(dr.encoder.maps[:1].expand_as(dr.encoder.maps))
        torch.testing.assert_close(sa(ROWS), sa(swapped))
        torch.testing.assert_close(dr(ROWS), dr(swapped))


def slow_routing(u: Tensor, mask: Tensor, iterations: int) -> Tensor:
    """One history, loops and lists: u (K, T, d), mask (T,)."""
    interests, width, dim = u.shape
    b = torch.zeros(interests, width)
    for i in range(iterations):
        used = u if i == iterations - 1 else u.detach()
        c = torch.stack([b[:, t].softmax(0) * mask[t] for t in range(width)], 1)
        v = torch.stack(
            [
                sum((c[j, t] * used[j, t] for t in range(width)), torch.zeros(dim))
                for j in range(interests)
            ]
        )
        v = torch.stack([s * (s @ s) / ((1 + s @ s) * (s @ s + 1e-9).sqrt()) for s in v])
        if i < iterations - 1:
            b = b + torch.stack([u[j].detach() @ v[j] for j in range(interests)])
    return v


def test_routing_and_its_gradient_equal_a_slow_implementation() -> None:
    torch.manual_seed(0)
    fast = torch.randn(3, 4, 6, 5, requires_grad=True)
    slow = fast.detach().clone().requires_grad_()
    mask = ROWS > 0
    found = route(fast, torch.zeros(3, 4, 6), mask)
    wanted = torch.stack([slow_routing(u, m, 3) for u, m in zip(slow, mask, strict=True)])
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)
    assert float(found.detach().norm(dim=2).max()) < 1


def test_one_iteration_of_one_interest_is_a_squashed_sum() -> None:
    model = make("dr", interests=1)
    with torch.no_grad():
        e = model.table(ROWS) * (ROWS > 0)[:, :, None]
        u = torch.einsum("btd,tod->bto", e, model.encoder.maps)
        found = route(u[:, None], torch.zeros(3, 1, 6), ROWS > 0, iterations=1)
        torch.testing.assert_close(found[:, 0], squash(u.sum(1)))
        torch.testing.assert_close(model(ROWS), found)  # with K = 1 all couplings are one


def test_identical_capsules_stay_identical() -> None:
    u = torch.randn(2, 1, 6, 5).expand(-1, 4, -1, -1)
    found = route(u, torch.zeros(2, 4, 6), torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(found, found[:, :1].expand_as(found))


def test_a_history_of_padding_has_no_interest() -> None:
    nothing = torch.zeros(1, 6, dtype=torch.int64)
    for variant in ("sa", "dr", "mind"):
        assert float(make(variant)(nothing).detach().abs().max()) == 0


def test_minds_noise_is_new_in_training_and_fixed_in_evaluation() -> None:
    model = make("mind")
    assert torch.equal(model(ROWS), model(ROWS))
    model.train()
    assert not torch.equal(model(ROWS), model(ROWS))
    relu = make("mind", mind_relu=True)
    assert float(relu(ROWS).detach().min()) >= 0


def test_the_gru_cell_is_its_formula() -> None:
    model = make("gru4rec")
    cell = model.encoder
    assert isinstance(cell, Gru)
    with torch.no_grad():
        for row, found in zip(ROWS, model(ROWS), strict=True):
            h = torch.zeros(5)
            for x in model.table(row[row > 0]):
                r, z = cell.gates(torch.cat((x, h))).sigmoid().chunk(2)
                h = z * h + (1 - z) * cell.candidate(torch.cat((x, r * h))).tanh()
            torch.testing.assert_close(found[0], h)


def test_the_mean_and_popularity() -> None:
    model = make("dnn")
    with torch.no_grad():
        means = torch.stack([model.table(row[row > 0]).mean(0) for row in ROWS])
        torch.testing.assert_close(model(ROWS)[:, 0], model.encoder.map(means))
    popular = Popular(torch.tensor([0, 5, 3]))
    assert popular.item_vectors.tolist() == [[0.0], [5.0], [3.0]]
    assert popular(ROWS).tolist() == [[[1.0]]] * 3
