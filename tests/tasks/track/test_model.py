"""The invariants of the network: attention, masks, refinement, histories."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mlkit.tasks.track.backbone import Levels
from mlkit.tasks.track.deformable import DeformableAttention
from mlkit.tasks.track.encoder import Encoder, token_anchors, token_centres
from mlkit.tasks.track.geometry import embed_boxes, embed_grid, from_box, giou, paired_giou, to_box
from mlkit.tasks.track.model import ColTrack
from mlkit.tasks.track.queries import TrackQueries, assemble, attention_mask
from mlkit.tasks.track.refinement import Refinement

from .helpers import TINY, frame_memory, some_tracks, tiny_model


def naive_attention(
    layer: DeformableAttention,
    queries: Tensor,
    references: Tensor,
    memory: Tensor,
    shapes: list[tuple[int, int]],
) -> Tensor:
    """Compute one batch entry with a loop over every point."""
    count, dim = queries.shape
    per_head = dim // layer.heads
    value = layer.value_proj(memory)
    offsets = layer.sampling_offsets(queries).view(
        count, layer.heads, layer.levels, layer.points, 2
    )
    weights = layer.attention_weights(queries).view(count, layer.heads, -1).softmax(-1)
    weights = weights.view(count, layer.heads, layer.levels, layer.points)
    out = torch.zeros(count, dim)
    for q in range(count):
        for m in range(layer.heads):
            start = 0
            for level, (height, width) in enumerate(shapes):
                plane = value[start : start + height * width, m * per_head : (m + 1) * per_head]
                plane = plane.view(height, width, per_head)
                start += height * width
                for k in range(layer.points):
                    ref, move = references[q, level], offsets[q, m, level, k]
                    if len(ref) == 4:
                        place = ref[:2] + move / layer.points * ref[2:] * 0.5
                    else:
                        place = ref + move / torch.tensor((width, height))
                    x, y = place[0] * width - 0.5, place[1] * height - 0.5
                    left, top = math.floor(x), math.floor(y)
                    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        row, column = top + i, left + j
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(y - row)) * (1 - abs(x - column))
                            part = weights[q, m, level, k] * share * plane[row, column]
                            out[q, m * per_head : (m + 1) * per_head] += part
    return layer.output_proj(out)


@pytest.mark.parametrize("size", [2, 4])
def test_deformable_attention_equals_a_loop_over_points(size: int) -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, 2, 3)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(layer.attention_weights.weight)
    shapes = [(5, 7), (3, 4)]
    queries, memory = torch.randn(1, 4, 8), torch.randn(1, 47, 8)
    references = torch.rand(1, 4, 2, size)
    with torch.no_grad():
        found = layer(queries, references, memory, shapes)[0]
        wanted = naive_attention(layer, queries[0], references[0], memory[0], shapes)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_deformable_attention_at_a_pixel_centre_returns_its_value() -> None:
    layer = DeformableAttention(8, 2, 1, 4)
    torch.nn.init.zeros_(layer.sampling_offsets.bias)
    memory = torch.randn(1, 20, 8)
    references = torch.tensor([[[[(2 + 0.5) / 5, (3 + 0.5) / 4]]]])
    with torch.no_grad():
        found = layer(torch.randn(1, 1, 8), references, memory, [(4, 5)])
        wanted = layer.output_proj(layer.value_proj(memory[:, 3 * 5 + 2]))
    assert torch.allclose(found[:, 0], wanted, atol=1e-5)


def test_the_first_offsets_point_in_all_directions() -> None:
    layer = DeformableAttention(16, 8, 2, 4)
    bias = layer.sampling_offsets.bias.view(8, 2, 4, 2)
    assert torch.allclose(bias[0, 0, 2], torch.tensor((3.0, 0.0)), atol=1e-5)
    assert torch.allclose(bias[1, 1, 1], torch.tensor((2.0, 2.0)), atol=1e-5)
    assert torch.allclose(bias[2, 0, 3], torch.tensor((0.0, 4.0)), atol=1e-5)


def test_padding_holds_nothing() -> None:
    model = tiny_model()
    images = torch.rand(1, 3, 64, 64)
    images[..., 32:] = 0.7
    extent = torch.tensor([[0.5, 1.0]])
    with torch.no_grad():
        one = model.encode(images, extent)
        assert one.padding is not None
        assert int(one.padding.sum()) == 32 + 8
        assert one.extent[0].tolist() == [[0.5, 1.0], [0.5, 1.0]]
        proposals = model.proposal_head(one.tokens, one.shapes, one.extent, one.padding)
    assert torch.isinf(proposals.anchors[one.padding]).all()
    centres = token_centres(one.shapes, one.extent)
    assert float(centres[0, 3, 0]) == pytest.approx(3.5 / 4)  # of the valid half


def test_boxes_and_logits_are_inverse() -> None:
    x = torch.linspace(-6, 6, 101)[:, None].expand(-1, 4)
    assert torch.allclose(from_box(to_box(x)), x, atol=1e-3)
    assert to_box(torch.zeros(4)).tolist() == pytest.approx([0.5, 0.5, 1, 1])
    outside = torch.tensor([-0.4, 1.3, 0.5, 1.5])
    assert torch.allclose(to_box(from_box(outside)), outside, atol=1e-6)


def test_overlaps_equal_torchvision() -> None:
    a, b = torch.rand(6, 4) * 0.5, torch.rand(6, 4) * 0.5
    assert torch.allclose(giou(a, b).diagonal(), paired_giou(a, b), atol=1e-5)


def test_embeddings_have_their_order_and_period() -> None:
    found = embed_boxes(torch.tensor([0.1, 0.2, 0.3, 0.4]), 8)
    assert found.shape == (16,)
    for place, value in enumerate((0.2, 0.1, 0.3, 0.4)):  # y, x, w, h
        assert float(found[4 * place]) == pytest.approx(math.sin(2 * math.pi * value), abs=1e-5)
    grid = embed_grid(4, 6, 8, torch.tensor([[0.5, 1.0]])).view(4, 6, 8)
    assert float(grid[3, 0, 0]) == pytest.approx(math.sin(2 * math.pi), abs=1e-4)
    assert torch.equal(grid[:, 3], grid[:, 5])  # padding repeats the last valid column


def test_no_encoder_layers_pass_the_tokens_on() -> None:
    tokens = torch.randn(1, 6, 32)
    levels = Levels(tokens, tokens, [(2, 3)], None, torch.ones(1, 1, 2))
    assert torch.equal(Encoder(32, 4, 1, 2, 8, 0)(levels), tokens)
    assert token_anchors([(2, 3)], torch.ones(1, 1, 2))[0, 0].tolist() == pytest.approx(
        [1 / 6, 1 / 4, 0.05, 0.05]
    )


@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 5),
    st.lists(st.integers(0, 3), max_size=5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_who_may_see_whom(
    groups: int, size: int, detects: int, histories: list[int], blocking: bool, apart: bool
) -> None:
    group = torch.arange(groups).repeat_interleave(size)
    owners = [i for i, count in enumerate(histories) for _ in range(count)]
    track = torch.tensor([*range(len(histories)), *owners], dtype=torch.int64)
    blocked = attention_mask(group, detects, track, blocking, apart)
    noise, start = len(group), len(group) + detects
    total = start + len(track)
    assert blocked.shape == (total, total)
    for i in range(total):
        assert not blocked[i, i]
        for j in range(total):
            if j < noise:
                wanted = i >= noise or bool(group[i] != group[j])
            elif noise <= i < start <= j:
                wanted = apart
            elif i < start or j < start:
                wanted = False
            else:
                wanted = blocking and i != j and bool(track[i - start] == track[j - start])
            assert bool(blocked[i, j]) == wanted


def test_without_history_it_is_a_plain_query_tracker() -> None:
    """With a bank of 1 the refinement never runs: outputs equal those of a build without it."""
    full = tiny_model(bank=1)
    plain = ColTrack(TINY.model_copy(update={"bank": 1, "irm": False})).eval()
    plain.load_state_dict({k: v for k, v in full.state_dict().items() if "history_qim" not in k})
    memory, boxes = frame_memory(full), torch.rand(3, 4) * 0.3 + 0.3
    tracks = TrackQueries.born(torch.randn(3, 32), boxes, torch.arange(3), 1)
    tracks = tracks.advance(torch.randn(3, 32), boxes)
    with torch.no_grad():
        one, two = (model.decode(memory, tracks).decoded for model in (full, plain))
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.boxes, two.boxes)


def refinement_inputs() -> tuple[Refinement, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    track = torch.tensor([0, 1, 0, 0, 1, 1])
    x, position = torch.randn(6, 32), torch.randn(6, 32)
    return Refinement(32, 4).eval(), x, position, track


@torch.no_grad()
def test_refinement_keeps_tracks_apart() -> None:
    module, x, position, track = refinement_inputs()
    strangers = track[:, None] != track[None]
    one = module(x, position, strangers)
    changed = x.clone()
    changed[track == 1] += 1
    two = module(changed, position, strangers)
    assert torch.equal(one[track == 0], two[track == 0])
    assert not torch.allclose(one[track == 1], two[track == 1])


@torch.no_grad()
def test_refinement_knows_no_order_of_histories() -> None:
    module, x, position, track = refinement_inputs()
    strangers = track[:, None] != track[None]
    order = torch.tensor([0, 1, 3, 2, 5, 4])
    one = module(x, position, strangers)
    two = module(x[order], position[order], strangers)
    assert torch.allclose(one[order], two, atol=1e-6)


@torch.no_grad()
def test_an_open_half_gate_changes_nothing() -> None:
    module, x, position, track = refinement_inputs()
    torch.nn.init.zeros_(module.linear_drop.weight)
    torch.nn.init.zeros_(module.linear_drop.bias)
    last = module.self_attn_add.self_attn.out_proj
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    found = module(x, position, track[:, None] != track[None])
    assert torch.allclose(found, F.layer_norm(x, (32,)), atol=1e-5)


@torch.no_grad()
def test_refinement_runs_once_a_track_has_history_and_leaves_others_alone() -> None:
    model = tiny_model()
    layer, content, boxes = model.decoder.layers[1], torch.randn(6, 32), torch.rand(6, 4)
    position = torch.randn(20, 32)
    none = assemble(content, boxes, some_tracks(model, [0, 0]), None, True)
    some = assemble(content, boxes, some_tracks(model, [0, 2]), None, True)
    assert not none.has_history
    kept = layer.refine(none.content, position[:8], none)
    assert torch.equal(kept, none.content)
    refined = layer.refine(some.content, position[:10], some)
    assert torch.equal(refined[:6], some.content[:6])
    assert not torch.allclose(refined[6], some.content[6])  # also the track without a history
    assert model.decoder.layers[0].history_qim is None


def first_attention(model: ColTrack, tracks: TrackQueries, blocking: bool = True) -> Tensor:
    """Return contents after the first layer's self-attention (6 detect queries in front)."""
    generator = torch.Generator().manual_seed(5)
    content = torch.randn(6, 32, generator=generator)
    boxes = torch.rand(6, 4, generator=generator)
    queries = assemble(content, boxes, tracks, None, blocking)
    position = model.decoder.ref_point_head(embed_boxes(queries.boxes, 32))
    return model.decoder.layers[0].attend(queries.content, position, queries.blocked)


@torch.no_grad()
def test_a_track_does_not_see_its_own_histories() -> None:
    model = tiny_model()
    boxes = torch.rand(2, 4) * 0.3 + 0.3
    plain = some_tracks(model, [2, 1], boxes=boxes)
    altered = some_tracks(model, [2, 1], boxes=boxes)
    altered.history[0] += 1
    fewer = some_tracks(model, [1, 1], boxes=boxes)
    base, one, two = (first_attention(model, tracks) for tracks in (plain, altered, fewer))
    for other in (one, two):
        assert torch.allclose(base[6], other[6], atol=1e-6)  # the first track's main query
        assert not torch.allclose(base[7], other[7], atol=1e-4)  # the second track's
        assert not torch.allclose(base[:6], other[:6], atol=1e-4)  # detect queries
    seen = [first_attention(model, tracks, blocking=False) for tracks in (plain, altered)]
    assert not torch.allclose(seen[0][6], seen[1][6], atol=1e-4)


def test_gradients_go_back_in_time_through_the_main_query_alone() -> None:
    model = tiny_model()
    content = torch.randn(2, 32, requires_grad=True)
    boxes = torch.rand(2, 4) * 0.3 + 0.3
    tracks = TrackQueries.born(content, boxes, torch.arange(2), 3)
    fresh = torch.randn(2, 32, requires_grad=True)
    tracks = tracks.advance(fresh, boxes)
    frame = model.decode(frame_memory(model), tracks)
    frame.decoded.content.square().sum().backward()
    assert content.grad is None  # it is history now
    assert fresh.grad is not None
    assert float(fresh.grad.abs().sum()) > 0


def test_banks_are_first_in_first_out() -> None:
    tracks = TrackQueries.born(torch.zeros(1, 32), torch.rand(1, 4), torch.tensor([7]), 3)
    for step in range(1, 5):
        tracks = tracks.advance(torch.full((1, 32), float(step)), torch.rand(1, 4))
        held = tracks.history[tracks.held][:, 0].tolist()
        assert held == [float(k) for k in range(max(0, step - 2), step)]
    assert tracks.main[0, 0] == 4
    assert tracks.owners().tolist() == [0, 0]


@torch.no_grad()
def test_copies_as_histories_predict_the_same_in_the_first_layer() -> None:
    model = tiny_model()
    tracks = some_tracks(model, [2, 2])
    tracks.history.copy_(tracks.main[:, None].expand(-1, 2, -1))
    frame = model.decode(frame_memory(model), tracks)
    main = frame.leading.boxes[0, 6:]
    assert torch.allclose(frame.historical.boxes[0], main.repeat_interleave(2, 0), atol=1e-6)
    logits = frame.leading.logits[0, 6:]
    assert torch.allclose(frame.historical.logits[0], logits.repeat_interleave(2, 0), atol=1e-5)


@torch.no_grad()
def test_detections_come_in_any_batch_and_sizes() -> None:
    model = tiny_model()
    images = torch.rand(2, 3, 40, 72)
    found = model(images)
    assert found.shape == (2, 6, 5)
    assert torch.isfinite(found).all()
    assert torch.allclose(found[:1], model(images[:1]), atol=1e-3)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_large_backbones_have_frozen_statistics(backbone: str) -> None:
    model = ColTrack(TINY.model_copy(update={"backbone": backbone, "levels": 4, "dim": 64})).eval()
    with torch.no_grad():
        memory = model.encode(torch.rand(1, 3, 64, 64))
    assert memory.shapes == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert not any("bn" in name for name, _ in model.pyramid.named_parameters())
