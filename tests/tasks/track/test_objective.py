"""Matching, losses, denoising, and the clip criterion."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mlkit.tasks.track.config import ClipOptions
from mlkit.tasks.track.denoising import make_denoising
from mlkit.tasks.track.geometry import corners
from mlkit.tasks.track.losses import FALSE, Truth, inherit, match, matching_cost, set_losses
from mlkit.tasks.track.model import ColTrack, Given
from mlkit.tasks.track.objective import Clip, ClipLoss, assign, offered, proposal_loss
from mlkit.tasks.track.queries import TrackQueries

from .helpers import frame_memory, some_tracks, some_truth, tiny_model

STEADY = ClipOptions(track_drop=0, false_tracks=0, gate=0, noise_pairs=0)


def test_matching_is_the_cheapest_assignment() -> None:
    torch.manual_seed(0)
    logits, boxes, truth = torch.randn(2, 5, 1), torch.rand(2, 5, 4), some_truth(3)
    target = match(logits, boxes, truth, torch.tensor([0, 2]))
    cost = matching_cost(logits, boxes, Truth(*(values[[0, 2]] for values in truth)))
    for layer in range(2):
        best = min(
            itertools.permutations(range(5), 2),
            key=lambda rows: float(cost[layer, rows[0], 0] + cost[layer, rows[1], 1]),
        )
        wanted = torch.full((5,), -1)
        wanted[best[0]], wanted[best[1]] = 0, 2
        assert torch.equal(target[layer], wanted)


def test_matching_cost_is_the_formula() -> None:
    logits, truth = torch.tensor([[0.3]]), some_truth(1)
    boxes = truth.boxes + torch.tensor([[0.01, 0.02, 0.0, 0.0]])
    p = torch.tensor(0.3).sigmoid()
    focal = 0.25 * (1 - p) ** 2 * -torch.log(p) - 0.75 * p**2 * -torch.log(1 - p)
    from mlkit.tasks.track.geometry import giou

    wanted = 2 * focal + 5 * 0.03 - 2 * giou(boxes, truth.boxes)[0, 0]
    assert float(matching_cost(logits, boxes, truth)[0, 0]) == pytest.approx(
        float(wanted), abs=1e-5
    )


def test_losses_are_sums_over_queries() -> None:
    torch.manual_seed(1)
    logits, boxes, truth = torch.randn(1, 4, 2), torch.rand(1, 4, 4), some_truth(2)
    target = torch.tensor([[1, -1, 0, -1]])
    found = set_losses(logits, boxes, truth, target)
    p = logits.sigmoid()[0]
    focal = 0.0
    for q, c in itertools.product(range(4), range(2)):
        hit = int(target[0, q]) >= 0 and c == 0
        focal += float(
            -0.25 * (1 - p[q, c]) ** 2 * p[q, c].log() if hit
            else -0.75 * p[q, c] ** 2 * (1 - p[q, c]).log()
        )  # fmt: skip
    assert float(found.classes) == pytest.approx(focal, rel=1e-4)
    l1 = (boxes[0, [0, 2]] - truth.boxes[[1, 0]]).abs().sum()
    assert float(found.boxes) == pytest.approx(float(l1), rel=1e-5)


def test_tracks_inherit_their_objects() -> None:
    truth = some_truth(3)  # identities 1, 2, 3
    assert inherit(torch.tensor([2, 9, FALSE, 1]), truth).tolist() == [1, -1, -1, 0]
    assert inherit(torch.tensor([2]), some_truth(0)).tolist() == [-1]


@torch.no_grad()
def test_detect_queries_get_only_what_no_track_holds() -> None:
    model, truth = tiny_model(), some_truth(3)
    tracks = some_tracks(model, [0, 1])  # identities 1 and 2
    target, inherited = assign(model.decode(frame_memory(model), tracks), tracks, truth)
    assert inherited.tolist() == [0, 1]
    for row in target:
        assert row[6:].tolist() == [0, 1]
        assert sorted(row[:6].tolist()) == [-1] * 5 + [2]


def test_denoising_moves_corners_within_its_limits() -> None:
    torch.manual_seed(0)
    truth, embedding = some_truth(3), torch.nn.Embedding(2, 8)
    noise = make_denoising(truth.boxes, truth.labels, embedding, 100)
    assert noise is not None
    assert noise.groups == 33
    assert len(noise) == 2 * 33 * 3
    half = truth.boxes[noise.target][:, 2:].repeat(1, 2) / 2
    moved = (corners(noise.anchors) - corners(truth.boxes[noise.target])).abs() / half
    assert float(moved[noise.positive].max()) <= 0.4 + 1e-4
    assert float(moved[~noise.positive].min()) >= 0.4 - 1e-4
    assert float(moved[~noise.positive].max()) <= 0.8 + 1e-4
    assert int(noise.positive.sum()) * 2 == len(noise)
    assert make_denoising(truth.boxes[:0], truth.labels[:0], embedding, 100) is None
    assert make_denoising(truth.boxes, truth.labels, embedding, 0) is None


@torch.no_grad()
def test_denoising_queries_change_nothing_for_the_others() -> None:
    model, truth = tiny_model(), some_truth(3)
    memory, tracks = frame_memory(model), some_tracks(model, [0, 2])
    noise = make_denoising(truth.boxes, truth.labels, model.label_enc, 6)
    assert noise is not None
    plain, noisy = model.decode(memory, tracks), model.decode(memory, tracks, None, noise)
    assert len(noisy.noise.content) == len(noise)
    assert torch.allclose(plain.leading.boxes, noisy.leading.boxes, atol=1e-6)
    assert torch.allclose(plain.historical.logits, noisy.historical.logits, atol=1e-5)


def clip_loss(model: ColTrack, truths: list[Truth], options: ClipOptions) -> dict[str, Tensor]:
    memory = frame_memory(model, frames=1)
    repeated = memory._replace(
        tokens=memory.tokens.repeat(len(truths), 1, 1),
        extent=memory.extent.repeat(len(truths), 1, 1),
    )
    return ClipLoss(model, options)([Clip(repeated, truths)])


def test_permuting_detect_queries_changes_nothing() -> None:
    truth = some_truth(3)
    model = tiny_model()
    one = clip_loss(model, [truth] * 3, STEADY)
    order = torch.randperm(6)

    def shuffled(proposals: object) -> tuple[Tensor, Tensor]:
        content, boxes = select(proposals)  # type: ignore[arg-type]
        return content[order], boxes[order]

    select = model._select
    model._select = shuffled  # type: ignore[method-assign]
    two = clip_loss(model, [truth] * 3, STEADY)
    for name in one:
        assert float(one[name].detach()) == pytest.approx(float(two[name].detach()), rel=1e-4), name


def test_the_same_clip_twice_costs_the_same() -> None:
    model, truths = tiny_model(), [some_truth(2, seed) for seed in range(4)]
    one, two = (clip_loss(model, truths, STEADY) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_normaliser_is_that_of_the_whole_clip() -> None:
    """An empty frame costs what its background costs, divided by the objects of the others."""
    model = tiny_model()
    options = STEADY.model_copy(update={"gate": 1.0})  # no track ever goes on
    both = clip_loss(model, [some_truth(3), some_truth(0)], options)
    first = clip_loss(model, [some_truth(3)], options)
    empty = clip_loss(model, [some_truth(0)], options)
    for name in both:
        wanted = (3 * first[name] + empty.get(name, torch.zeros(()))) / 3
        assert float(both[name].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4), name


def test_disappeared_tracks_cost_their_class_alone() -> None:
    model = tiny_model()
    gone = some_truth(0)
    tracks = some_tracks(model, [1, 1])
    loss = ClipLoss(model, STEADY)
    frame = model.decode(frame_memory(model), tracks)
    target, _ = assign(frame, tracks, gone)
    terms = set_losses(frame.leading.logits, frame.leading.boxes, gone, target)
    assert (target == -1).all()
    assert float(terms.boxes.detach()) == float(terms.overlap.detach()) == 0
    assert float(terms.classes.detach()) > 0
    assert len(loss.hand_on(frame, tracks, gone, target[-1], *frame.settled(target[-1], None))) == 0


def test_consistency_loss_of_copies_is_the_main_loss_per_history() -> None:
    """In the first layer: twice the tracks' part for two histories each, none without."""
    model, truth = tiny_model(), some_truth(2)
    tracks = some_tracks(model, [2, 2])
    tracks.history.copy_(tracks.main[:, None].expand(-1, 2, -1))
    frame = model.decode(frame_memory(model), tracks)
    inherited = inherit(tracks.identity, truth)
    owner = frame.queries.track[2:]
    old = set_losses(
        frame.historical.logits[:1], frame.historical.boxes[:1], truth, inherited[owner][None]
    )
    leading = frame.leading
    main = set_losses(leading.logits[:1, 6:], leading.boxes[:1, 6:], truth, inherited[None])
    assert float(old.total.detach()) == pytest.approx(2 * float(main.total.detach()), rel=1e-5)
    # Given boxes are held from the first frame on, so that tracks go on and have histories.
    held = STEADY.model_copy(update={"proposals": True, "box_noise": 0.0})
    calm = ColTrack(model.options)
    assert "consistency" not in clip_loss(calm, [truth] * 2, held)
    assert "consistency" in clip_loss(calm, [truth] * 3, held)
    without = held.model_copy(update={"toc": False})
    assert "consistency" not in clip_loss(calm, [truth] * 3, without)


def test_tracks_are_handed_on_lost_and_faked() -> None:
    torch.manual_seed(0)
    model, truth = ColTrack(tiny_model().options), some_truth(3)  # predicts what it starts from
    tracks = some_tracks(model, [1, 0], boxes=truth.boxes[:2])
    given = Given(truth.boxes, torch.ones(3))
    frame = model.decode(frame_memory(model), tracks, given)
    target, _ = assign(frame, tracks, truth)
    handed = (frame, tracks, truth, target[-1], *frame.settled(target[-1], None))
    kept = ClipLoss(model, STEADY).hand_on(*handed)
    assert sorted(kept.identity.tolist()) == [1, 2, 3]
    for row, identity in enumerate(kept.identity.tolist()):
        if identity <= 2:  # an old track: its main query became history, without gradient
            assert torch.equal(kept.history[row, -1], tracks.main[identity - 1])
            assert not kept.history.requires_grad
        else:
            assert not kept.held[row].any()
    lost = STEADY.model_copy(update={"track_drop": 1.0})
    assert len(ClipLoss(model, lost).hand_on(*handed)) == 0
    fake = STEADY.model_copy(update={"false_tracks": 1.0})
    posing = ClipLoss(model, fake).hand_on(*handed)
    assert (posing.identity == FALSE).sum() >= 1
    assert set(posing.identity.tolist()) - {FALSE} == {1, 2, 3}
    following, inherited = assign(model.decode(frame_memory(model), posing), posing, truth)
    assert (inherited[posing.identity == FALSE] == -1).all()
    assert (following[:, :6] >= -1).all()


def test_boxes_are_offered_as_a_detector_would() -> None:
    torch.manual_seed(0)
    truth = some_truth(400)
    exact, where = offered(truth, 0.0)
    assert torch.equal(exact.boxes, truth.boxes)
    assert torch.equal(where[:-1], torch.arange(400))
    assert where[-1] == -1
    given, where = offered(truth, 0.2)
    lost = where[:-1] < 0
    assert 50 < int(lost.sum()) < 110
    assert 50 < len(given.boxes) - int((~lost).sum()) < 110  # made up
    size = truth.boxes[~lost, 2:]
    found = given.boxes[where[:-1][~lost]]
    away = (found[:, :2] - truth.boxes[~lost, :2]).abs() / size
    ratio = (found[:, 2:] / size).log().abs()
    for change in (away, ratio):
        assert 0.18 < float(change.max()) <= 0.2 + 1e-5
    nothing, where = offered(some_truth(0), 0.2)
    assert (len(nothing.boxes), where.tolist()) == (0, [-1])


def test_frames_without_a_box_are_learnt_from() -> None:
    clips = STEADY.model_copy(update={"proposals": True, "box_noise": 0.0})
    loss = clip_loss(tiny_model(), [some_truth(0), some_truth(2), some_truth(0)], clips)
    assert torch.isfinite(loss["loss"])
    loss["loss"].backward()


def test_frozen_encoder_gets_no_gradient_and_the_decoder_starts_anew() -> None:
    model = tiny_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.stage_two()
    loss = clip_loss(model, [some_truth(2)] * 2, ClipOptions(stage="track", noise_pairs=4))
    loss["loss"].backward()
    after = model.state_dict()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("pyramid", "encoder", "proposal_head"))
        assert parameter.requires_grad != frozen
        if frozen:
            assert torch.equal(before[name], after[name])
    assert not torch.equal(before["tgt_embed.weight"], after["tgt_embed.weight"])
    assert "proposals" not in loss


def test_a_clip_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = ColTrack(tiny_model().options)
    objective = ClipLoss(model, STEADY)
    images = torch.rand(1, 3, 48, 64).repeat(3, 1, 1, 1)
    truths = [some_truth(2)] * 3
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    first = last = 0.0
    for _ in range(60):
        loss = objective([Clip(images, truths)])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = first or last
    assert last < 0.3 * first
    assert torch.isfinite(proposal_loss(torch.zeros(1, 4, 1), torch.zeros(1, 4, 4), truths[0]))
    assert len(TrackQueries.none(32, 3)) == 0
