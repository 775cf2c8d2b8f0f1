from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlkit.tasks.segment import attention, model
from mlkit.tasks.segment.attention import (
    CrossModalAttention,
    PartLinear,
    attend,
    pool_cells,
    pool_tokens,
    pool_words,
)
from mlkit.tasks.segment.backbone import LiteLevels, Mini, make_backbone, spatial_map
from mlkit.tasks.segment.config import ModelOptions
from mlkit.tasks.segment.fusion import GatedFusion, SumFusion
from mlkit.tasks.segment.losses import Referring, batch_iou, penalised
from mlkit.tasks.segment.model import WIDTHS, Segmenter, Width, enlarge, unit

from . import plain

# Like the paper's: the top level's tokens are whole, the others reduced.
TINY = Width(word=6, top=7, reduced=(0, 9, 5), inner=(8, 5, 4), fusion=6, score_bias=0.0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.WIDTHS, "paper", TINY)


def network(words: int = 30, **options: Any) -> Segmenter:
    """A network whose biases are not 0, in eval mode."""
    values = {"image_size": 40, "width": "paper", **options}
    torch.manual_seed(0)
    built = Segmenter(ModelOptions(**values), words).eval()
    for parameter in built.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, -0.3, 0.5)
    return built


def state_of(network: Segmenter) -> dict[str, Any]:
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


def features(network: Segmenter, count: int = 2, side: int = 5) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(count, c, side, side + 1) for c in network.backbone.channels]


def refer(network: Segmenter, *sentences: list[int], image: int = 0) -> Tensor:
    maps = [
        level[image : image + 1].expand(len(sentences), -1, -1, -1) for level in features(network)
    ]
    with torch.no_grad():
        return network.refer(maps, torch.tensor(sentences))


@pytest.mark.parametrize("sentence", [[4, 9, 7], [4, 9, 7, 11], [5]])
def test_logits_are_those_of_the_formulas_written_out(sentence: list[int]) -> None:
    built = network()
    found = refer(built, sentence)
    maps = [level[0].double().numpy() for level in features(built)]
    wanted = plain.logits(state_of(built), maps, sentence, TINY.reduced)
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-4)


def test_the_legacy_grid_is_that_of_tensorflow_1() -> None:
    logits = torch.rand(2, 5, 5)
    for size in (40, 13):
        found = enlarge(logits, size, "legacy")
        wanted = np.stack([plain.legacy(one.numpy(), size) for one in logits])
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert not torch.allclose(enlarge(logits, 40), enlarge(logits, 40, "legacy"), atol=1e-2)
    assert torch.equal(enlarge(logits, 5), logits)


def parts(words: int = 3, real: list[int] | None = None) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    lengths = torch.tensor(real or [words, words])
    kept = torch.arange(words) < lengths[:, None]
    return torch.rand(2, 4, 5, 7), torch.rand(2, words, 6), spatial_map(4, 5), kept


def test_split_maps_equal_the_concatenated_map() -> None:
    visual, words, place, _ = parts()
    layer = PartLinear(7, 6, 8, 10)
    cells, terms = layer.split(visual, words, place)
    found = cells[:, None] + terms[:, :, None, None]
    for i in range(2):
        tokens = plain.tokens_of(visual[i].numpy(), words[i].numpy(), place.numpy())
        torch.testing.assert_close(found[i], layer(torch.from_numpy(tokens)), atol=1e-5, rtol=1e-5)


def test_pooling_the_shares_equals_pooling_their_sum() -> None:
    torch.manual_seed(3)
    cells, terms = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 6)
    real = torch.tensor([[True, True, True], [True, False, False]])
    found = torch.relu(pool_cells(cells)[:, None] + pool_words(terms, real)[:, :, None, None])
    whole = torch.relu(cells[:, None] + terms[:, :, None, None])
    torch.testing.assert_close(found[0], pool_tokens(whole, real)[0])
    torch.testing.assert_close(found[1, :1], pool_tokens(whole, real)[1, :1])
    for i, words in enumerate((3, 1)):
        wanted = plain.pool(whole[i, :words].numpy())
        np.testing.assert_allclose(
            pool_tokens(whole, real)[i].reshape(-1, 6)[: len(wanted)], wanted
        )


@pytest.mark.parametrize("reduced", [0, 9])
def test_attention_in_parts_and_its_gradients_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch, reduced: int
) -> None:
    torch.manual_seed(4)
    layer = CrossModalAttention(7, 6, 8, reduced, 5, 4)
    visual, words, place, real = parts(5, [5, 3])
    owner = torch.tensor([1, 0])

    def run() -> tuple[Tensor, list[Tensor]]:
        layer.zero_grad()
        out = layer(visual, words, place, real, owner)
        out.square().sum().backward()
        return out.detach(), [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    whole, gradients = run()
    monkeypatch.setattr(attention, "CHUNK_FLOATS", 1)
    again, others = run()
    torch.testing.assert_close(again, whole)
    torch.testing.assert_close(others, gradients)
    assert len(gradients) == len(list(layer.parameters()))


@pytest.mark.parametrize("reduced", [False, True])
def test_padding_changes_nothing(reduced: bool) -> None:
    torch.manual_seed(5)
    layer = CrossModalAttention(7, 6, 8, 9 if reduced else 0, 5, 4)
    visual, words, place, real = parts(5, [5, 3])
    owner = torch.tensor([1, 1])
    together = layer(visual, words, place, real, owner)
    for i, length in enumerate((5, 3)):
        alone = layer(
            visual[1:],
            words[i : i + 1, :length],
            place,
            real[i : i + 1, :length],
            torch.tensor([0]),
        )
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_attention_equals_an_explicit_softmax_and_averages() -> None:
    torch.manual_seed(6)
    q, k, v = torch.rand(2, 7, 4) * 3, torch.rand(2, 5, 4) * 3, torch.rand(2, 5, 3 + 1)
    real = torch.tensor([[True] * 5, [True, True, False, True, False]])
    scores = (q @ k.transpose(1, 2)).masked_fill(~real[:, None], -torch.inf)
    weights = scores.softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    torch.testing.assert_close(attend(q, k, v, real), weights @ v, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attend(q, k, v), (q @ k.transpose(1, 2)).softmax(-1) @ v)
    constant = torch.full_like(v, 2.5)
    torch.testing.assert_close(attend(q, k, constant, real), torch.full((2, 7, 4), 2.5))


@pytest.mark.parametrize("reduced", [0, 9])
def test_one_word_and_one_cell_attend_to_themselves(reduced: int) -> None:
    torch.manual_seed(7)
    layer = CrossModalAttention(7, 6, 8, reduced, 5, 4)
    visual, words, place = torch.rand(1, 1, 1, 7), torch.rand(1, 1, 6), spatial_map(1, 1)
    real, owner = torch.ones(1, 1, dtype=torch.bool), torch.tensor([0])
    token = torch.cat((visual[0, 0, 0], words[0, 0], place[0, 0]))
    if layer.reduce is not None:
        token = torch.relu(layer.reduce(token))
    wanted = torch.relu(layer.output(torch.relu(layer.value(token)))) + token
    found = layer.mean_response(visual, words, place, real, owner)
    torch.testing.assert_close(found[0, 0, 0], wanted)


def test_many_sentences_about_one_picture_equal_one_by_one() -> None:
    built = network()
    tokens = torch.tensor([[4, 9, 7, 11, 12], [5, 0, 0, 0, 0], [8, 6, 4, 0, 0]])
    images = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        together = built.refer(built.features(images), tokens, torch.zeros(3, dtype=torch.int64))
        for i, length in enumerate((5, 1, 3)):
            alone = built.refer(built.features(images), tokens[i : i + 1, :length])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
        whole = built(images.expand(3, -1, -1, -1), tokens)
    assert whole.shape == (3, 40, 40)
    torch.testing.assert_close(whole, built.enlarge(together), atol=1e-5, rtol=1e-4)


def test_the_faithful_network_sees_pairs_of_words_and_no_more_order() -> None:
    built = network()
    base, reverse, swap_pairs, swap_inside, broken = refer(
        built, [4, 9, 7, 11], [11, 7, 9, 4], [7, 11, 4, 9], [9, 4, 7, 11], [4, 7, 9, 11]
    )
    spread = float(base.max() - base.min())
    for same in (reverse, swap_pairs, swap_inside):
        assert float((same - base).abs().max()) < 1e-5 * max(1, spread)
    assert float((broken - base).abs().max()) > 1e-4 * spread


@pytest.mark.parametrize("order", ["position", "lstm"])
def test_word_order_can_be_told(order: str) -> None:
    built = network(word_order=order)
    base, reverse = refer(built, [4, 9, 7, 11], [11, 7, 9, 4])
    assert float((reverse - base).abs().max()) > 1e-4 * float(base.max() - base.min())
    padded = refer(built, [4, 9, 7, 11, 0, 0])[0]
    torch.testing.assert_close(padded, base, atol=1e-5, rtol=1e-4)


def test_ablations_take_away_what_they_say() -> None:
    deaf = network(language="none")
    one, other = refer(deaf, [4, 9, 7], [5, 8, 6])
    torch.testing.assert_close(one, other)
    bag = network(language="mean")
    one, other, third = refer(bag, [4, 7, 9, 11], [4, 9, 7, 11], [5, 9, 7, 11])
    torch.testing.assert_close(one, other)  # even a broken pair is the same bag
    assert not torch.allclose(one, third)
    lost = network(spatial=False)
    maps = [level.mean((2, 3), keepdim=True).expand_as(level) for level in features(lost)]
    with torch.no_grad():
        flat = lost.refer([level[:1] for level in maps], torch.tensor([[4, 9]]))
    # Away from the border, where convolutions see zeros, equal cells without a place are equal.
    torch.testing.assert_close(flat[0, 2, 2:4], flat[0, 2, 2].expand(2))
    assert isinstance(network(fusion="sum").fusion, SumFusion)


def gates(memory: float, reset: float) -> GatedFusion:
    torch.manual_seed(8)
    fusion = GatedFusion(4)
    with torch.no_grad():
        for gate in fusion.gates:
            gate.weight[4:] = 0
            gate.bias[4:8], gate.bias[8:] = memory, reset
    return fusion


def test_gates_do_what_their_extremes_say() -> None:
    torch.manual_seed(9)
    levels = [torch.randn(2, 4, 5, 5) for _ in range(3)]
    torch.testing.assert_close(gates(0, -1e4)(levels), sum(levels))
    closed = gates(-1e4, 1e4)
    candidates = [gate(x)[:, :4] for gate, x in zip(closed.gates, levels, strict=True)]
    torch.testing.assert_close(closed(levels), sum(torch.tanh(c) for c in candidates))
    fusion = gates(0.3, 0.2)
    torch.nn.init.ones_(fusion.mix)
    other = torch.randn(2, 4, 5, 5)
    one, two = (fusion.level(0, levels[0], levels[1], third) for third in (levels[2], other))
    torch.testing.assert_close(one, two)
    torch.nn.init.constant_(fusion.mix, 0.7)
    assert not torch.allclose(fusion.level(0, *levels), fusion.level(0, *levels[:2], other))


def test_gates_and_sum_equal_the_written_out_formula() -> None:
    built = network()
    torch.manual_seed(10)
    levels = [torch.randn(1, 6, 4, 5) for _ in range(3)]
    wanted = plain.fuse(state_of(built), [x[0].double().numpy() for x in levels])
    with torch.no_grad():
        np.testing.assert_allclose(built.fusion(levels)[0].numpy(), wanted, atol=1e-5)
    torch.testing.assert_close(SumFusion()(levels), levels[0] + levels[1] + levels[2])


def test_spatial_map() -> None:
    place = spatial_map(4, 6)
    np.testing.assert_allclose(place.numpy(), plain.place_map(4, 6), atol=1e-6)
    mirrored = place.flip(1)
    torch.testing.assert_close(mirrored[..., 0], -place[..., 2])
    torch.testing.assert_close(mirrored[..., 2], -place[..., 0])
    assert abs(float(place[..., 4].mean())) < 1e-6
    assert abs(float(place[..., 5].mean())) < 1e-6
    assert torch.equal(place[..., 6], torch.full((4, 6), 1 / 6))
    assert torch.equal(place[..., 7], torch.full((4, 6), 1 / 4))


def test_unit_length_also_of_nothing() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("name", "stride"), [("mini", 4), ("efficientnet_lite0", 8), ("resnet50", 8)]
)
def test_backbones_give_three_levels_on_one_grid(name: Any, stride: int) -> None:
    backbone = make_backbone(name).eval()
    with torch.no_grad():
        levels = backbone(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape) for x in levels] == [
        (1, c, 64 // stride, 64 // stride) for c in backbone.channels
    ]


def test_levels_of_the_lite_network_are_its_own_stages() -> None:
    torch.manual_seed(11)
    backbone = LiteLevels().eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x, seen = images, []
        for block in backbone.features:
            x = block(x)
            seen.append(tuple(x.shape[1:]))
        third = backbone(images)[2]
    assert (40, 8, 8) in seen
    assert (112, 4, 4) in seen
    assert seen[-1] == (320, 2, 2)
    assert third.shape == (1, 40, 8, 8)


def test_the_paper_has_its_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    width = WIDTHS["paper"]
    assert [width.top + width.word + 8, 1024 + width.word + 8, 512 + width.word + 8] == [
        2008,
        2032,
        1520,
    ]
    assert (width.reduced, width.inner, width.fusion) == ((0, 256, 128), (512, 128, 64), 500)


def test_a_frozen_backbone_stays_as_it_is() -> None:
    built = network(backbone="mini")
    built.freeze_backbone()
    built.train()
    before = {name: t.clone() for name, t in built.backbone.state_dict().items()}
    built(torch.rand(2, 3, 40, 40), torch.tensor([[4, 5], [6, 7]])).sum().backward()
    assert all(torch.equal(t, before[name]) for name, t in built.backbone.state_dict().items())
    assert all(p.grad is None for p in built.backbone.parameters())
    assert isinstance(built.backbone, Mini)


def test_loss_is_the_mean_entropy_and_the_two_penalties() -> None:
    built = network()
    objective = Referring(built, l2=0.5)
    batch = {
        "images": torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8),
        "tokens": torch.tensor([[4, 9], [7, 0]]),
        "masks": torch.randint(0, 2, (2, 40, 40), dtype=torch.uint8),
    }
    with torch.no_grad():
        losses = objective(batch)
        logits = built(batch["images"] / 255, batch["tokens"])
    p, y = torch.sigmoid(logits.double()), batch["masks"].double()
    entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    squares = sum(
        float(built.state_dict()[name].square().sum()) for name in ("top.weight", "score.weight")
    )
    assert float(losses["entropy"]) == pytest.approx(float(entropy), rel=1e-4)
    assert float(penalised(built).detach()) == pytest.approx(squares)
    added = float(losses["loss"] - losses["entropy"])
    assert added == pytest.approx(0.25 * squares / 1600, rel=1e-3)
    rates = objective.rates()
    doubled = [n for n, _ in objective.named_parameters() if any(word in n for word in rates)]
    assert doubled == ["model.top.bias", "model.score.bias"]


def test_iou_of_a_batch() -> None:
    logits = torch.tensor([[[1.0, -1.0]], [[-1.0, -1.0]], [[1.0, 1.0]]])
    masks = torch.tensor([[[1, 1]], [[0, 0]], [[1, 0]]])
    assert float(batch_iou(logits, masks)) == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_attention_is_computed_in_full_precision_under_autocast() -> None:
    torch.manual_seed(12)
    q, k, v = (torch.rand(1, 6, 4, dtype=torch.bfloat16) * 20 for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(q, k, v)
    assert found.dtype == torch.float32
    weights = (q.double() @ k.double().transpose(1, 2)).softmax(-1)
    torch.testing.assert_close(found.double(), weights @ v.double(), atol=1e-3, rtol=1e-4)
