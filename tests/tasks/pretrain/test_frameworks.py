from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from mlkit.core.errors import DivergedError, UsageError
from mlkit.tasks.pretrain import frameworks, losses
from mlkit.tasks.pretrain.frameworks import MoCo, Taught, Views
from mlkit.tasks.pretrain.queue import Queue

from .helpers import framework, views

METHODS = ("moco", "byol", "simclr", "swav")


def gradients(
    method: str, batch: Views, **options: object
) -> tuple[float, dict[str, torch.Tensor]]:
    objective = framework(method, **options).double().eval()
    if isinstance(objective, MoCo):
        filled = Views(views(2, 4, seed=9).clips.double(), torch.arange(4) + 50)
        objective.start(iter([filled]))
    loss = objective(batch)["loss"]
    loss.backward()
    found = {k: p.grad for k, p in objective.named_parameters() if p.grad is not None}
    return loss.item(), found


@pytest.mark.parametrize("method", ["moco", "byol"])
@pytest.mark.parametrize("clips", [2, 3])
def test_one_clip_at_a_time_is_one_large_graph(method: str, clips: int) -> None:
    batch = Views(views(clips).clips.double(), torch.arange(4))
    one, first = gradients(method, batch, sequential=True)
    two, second = gradients(method, batch, sequential=False)
    assert one == pytest.approx(two, abs=1e-10)
    assert first.keys() == second.keys()
    assert any(bool((g != 0).any()) for g in first.values())
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_order_of_videos_nor_that_of_clips_matters(method: str) -> None:
    batch = views(3)
    videos, clips = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    options = {"codes": "all"} if method == "swav" else {}
    found = []
    for other in (
        batch,
        Views(batch.clips[:, videos], batch.ids[videos]),
        Views(batch.clips[clips], batch.ids),
    ):
        objective = framework(method, **options).eval()
        if isinstance(objective, MoCo):
            objective.start(iter([Views(views(2, 4, seed=9).clips, torch.arange(4) + 50)]))
        found.append(objective(other)["loss"].item())
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(method: str) -> None:
    objective = framework(method, anneal=False)
    batch = views(2)
    if isinstance(objective, MoCo):
        objective.start(iter([Views(views(2, 4, seed=9).clips, torch.arange(4) + 50)]))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 3e-3)
    history = []
    for _ in range(15):
        optimizer.zero_grad()
        found = objective(batch)
        found["loss"].backward()
        optimizer.step()
        history.append(float(found["loss"].detach()))
    assert sum(history[-3:]) < sum(history[:3])


def test_simclr_is_the_mean_over_all_pairs() -> None:
    objective, batch = framework("simclr").eval(), views(3)
    z = [objective.model(clip) for clip in batch.clips]
    pairs = [losses.nt_xent(z[i], z[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(pairs).mean())


def test_both_forms_of_swav_agree_with_two_clips() -> None:
    both = [
        framework("swav", codes=codes).eval()(views(2))["loss"] for codes in ("first-two", "all")
    ]
    torch.testing.assert_close(*both)
    three = [framework("swav", codes=c).eval()(views(3))["loss"] for c in ("first-two", "all")]
    assert float(three[0].detach()) != pytest.approx(float(three[1].detach()), abs=1e-6)


def test_prototypes_rest_in_the_first_epoch() -> None:
    objective = framework("swav")
    for expected in (0.0, 1.0):
        objective.zero_grad()
        objective(views(2))["loss"].backward()
        gradient = objective.prototypes.weight.grad  # type: ignore[union-attr]
        assert (float(gradient.abs().max()) > 0) == bool(expected)
        objective.calls.fill_(5)  # an epoch is 5 steps
    norms = objective.prototypes.weight.detach().norm(dim=1)  # type: ignore[union-attr]
    torch.testing.assert_close(norms, torch.ones(6))


def test_byol_of_a_copy_with_an_identity_for_predictor_is_perfect() -> None:
    objective = framework("byol", teacher_momentum=0.0, anneal=False).eval()
    objective.predictor = torch.nn.Identity()  # type: ignore[assignment]
    same = views(1).clips.repeat(2, 1, 1, 1, 1, 1)
    assert objective(Views(same, torch.arange(4)))["loss"].item() == pytest.approx(-2, abs=1e-6)


# --- the teacher ---


def test_the_momentum_rises_along_a_cosine() -> None:
    objective = framework("byol", teacher_momentum=0.9)
    assert isinstance(objective, Taught)
    found = []
    for step in range(11):
        objective.calls.fill_(step)
        found.append(objective.momentum())
    assert found[0] == pytest.approx(0.9)
    assert found[10] == pytest.approx(1.0)
    assert found == sorted(found)
    assert found[5] == pytest.approx(1 - 0.1 * (math.cos(math.pi / 2) + 1) / 2)
    fixed = framework("byol", teacher_momentum=0.9, anneal=False)
    assert isinstance(fixed, Taught)
    fixed.calls.fill_(7)
    assert fixed.momentum() == 0.9


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_the_teacher_follows_and_is_never_trained(method: str) -> None:
    objective = framework(method, teacher_momentum=0.75, anneal=False)
    assert isinstance(objective, Taught)
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    before = copy.deepcopy(objective.model)
    objective.start(iter([views(2), views(2)]))
    objective(views(2))["loss"].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    for own, theirs in zip(before.parameters(), objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(own, theirs)  # at the first step they are the same
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.add_(1.0)
    objective(views(2))
    for own, theirs in zip(before.parameters(), objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(theirs, own + 0.25)


def test_without_momentum_the_teacher_is_the_encoder() -> None:
    objective = framework("byol", teacher_momentum=0.0, anneal=False)
    assert isinstance(objective, Taught)
    objective(views(2))
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(0.5)
    objective(views(2))
    for own, theirs in zip(
        objective.model.parameters(), objective.teacher.parameters(), strict=True
    ):
        torch.testing.assert_close(own, theirs)


# --- MoCo's queue ---


def test_the_queue_is_first_in_first_out() -> None:
    queue = Queue(6, 2, 2)
    assert bool(queue.same(torch.tensor([0])).all())  # empty places are no negatives
    for i in range(4):
        queue.push(torch.full((2, 2), float(i)), torch.tensor([10 * i, 10 * i + 1]))
    assert queue.keys[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    assert queue.ids.tolist() == [30, 31, 10, 11, 20, 21]
    assert queue.same(torch.tensor([11, 99])).tolist() == [
        [False, False, False, True, False, False],
        [False] * 6,
    ]


def test_a_queue_that_is_no_multiple_of_the_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="--queue 10: no multiple of the 4 videos") as caught:
        Queue(10, 2, 4)
    assert "--queue 8" in caught.value.hint


def test_keys_of_all_clips_join_the_queue() -> None:
    objective = framework("moco", queue=16)
    assert isinstance(objective, MoCo)
    objective(views(3))
    assert objective.queue.ids.tolist() == [0, 1, 2, 3] * 3 + [-1] * 4
    torch.testing.assert_close(
        objective.queue.keys[:12].norm(dim=1), torch.ones(12), rtol=1e-4, atol=1e-4
    )


def test_shuffled_keys_change_nothing_when_norms_are_fixed() -> None:
    """The leak of batch statistics: in eval mode a key does not know its neighbours."""
    objective, batch = framework("moco").eval(), views(2)
    assert isinstance(objective, MoCo)
    order = torch.tensor([2, 3, 0, 1])
    straight = objective.keys(batch)
    shuffled = objective.keys(Views(batch.clips[:, order], batch.ids[order]))
    torch.testing.assert_close(straight[0], shuffled[0][order.argsort()])
    objective.train()
    few = objective.keys(Views(batch.clips[:, :2], batch.ids[:2]))
    many = objective.keys(batch)
    assert not torch.allclose(few[0], many[0][:2], atol=1e-4)  # in train mode it does


# --- collapse ---


def test_a_collapse_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "LEAST_STEPS", 2)
    objective = framework("byol")
    with torch.no_grad():
        last = objective.model.projector[-1]
        torch.nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        torch.nn.init.ones_(last.bias)  # type: ignore[arg-type]
    for _ in range(4):
        assert objective(views(2))["std"].item() < 1e-3
    with pytest.raises(DivergedError, match="collapsed"):
        objective(views(2))


def test_a_short_lapse_is_forgiven() -> None:
    objective = framework("simclr")
    objective.low.fill_(4)
    objective(views(2))
    assert int(objective.low) == 0


def test_heads_are_those_of_the_table() -> None:
    with_norm = framework("byol", projector_layers=2).model.projector
    kinds = [type(layer).__name__ for layer in with_norm]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert with_norm[0].bias is None
    plain = framework("moco", head_norm=False, projector_layers=3).model.projector
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert F.linear(torch.ones(1, 16), plain[-1].weight).shape == (1, 8)  # type: ignore[arg-type]
