from __future__ import annotations

from typing import Any

import pytest
import torch

from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.transcribe.config import MethodOptions, StageOptions, TranscribeTrainOptions
from mlkit.tasks.transcribe.data import Mixed
from mlkit.tasks.transcribe.model import build
from mlkit.tasks.transcribe.objective import PseudoLabelled, Supervised
from mlkit.tasks.transcribe.stages import score_greedy, train_pseudo, train_supervised

from .helpers import NETWORK, TOKENS, corpus

RUN = RunOptions(device="cpu", seed=1)
SHORT = TranscribeTrainOptions(steps=60, save_every=20, batch_size=8, lr=1e-2, warmup=5)
LABELLED, DEV, UNLABELLED = corpus(24, 0), corpus(12, 1), corpus(24, 2)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """The weights of a small model that knows most tones."""
    torch.manual_seed(1)
    model = build(NETWORK, len(TOKENS))
    options = MethodOptions(method="supervised", augment=0.0)
    train_supervised(model, LABELLED, DEV, options, SHORT, start(RUN))
    return model.state_dict()


def model_of(weights: dict[str, Any]) -> Any:
    model = build(NETWORK, len(TOKENS))
    model.load_state_dict(weights)
    return model


def test_tones_are_learnt(trained: dict[str, Any]) -> None:
    assert score_greedy(model_of(trained), corpus(20, 3)).rate < 0.2


def objective(weights: dict[str, Any], **options: Any) -> PseudoLabelled:
    proxy = [DEV.batch(part) for part in DEV.batches()]
    return PseudoLabelled(model_of(weights), MethodOptions(**options), proxy, [])


def mixed() -> Mixed:
    return Mixed(LABELLED.batch(range(6)), UNLABELLED.batch(range(8)))


def one_step(chosen: PseudoLabelled) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    chosen.train()
    losses = chosen(mixed())
    losses["loss"].backward()
    return losses


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_teacher_follows_the_student(trained: dict[str, Any], decay: float) -> None:
    """Property 12: decay 0 copies the student, 1 freezes the teacher; buffers are copied."""
    chosen = objective(trained, method="pl", teacher_decay=decay)
    before = [p.clone() for p in chosen.teacher.parameters()]
    one_step(chosen)
    with torch.no_grad():
        for p in chosen.model.parameters():
            p.add_(0.1)
    chosen.follow()
    for mine, new, old in zip(
        chosen.teacher.parameters(), chosen.model.parameters(), before, strict=True
    ):
        torch.testing.assert_close(mine, decay * old + (1 - decay) * new)
    for mine, new in zip(chosen.teacher.buffers(), chosen.model.buffers(), strict=True):
        assert torch.equal(mine, new)
    after = [p.clone() for p in chosen.teacher.parameters()]
    chosen.follow()  # once per update only
    assert all(torch.equal(a, b) for a, b in zip(after, chosen.teacher.parameters(), strict=True))
    assert not chosen.teacher.training


def test_a_step_in_parts_moves_the_teacher_once(trained: dict[str, Any]) -> None:
    chosen = objective(trained, method="pl", teacher_decay=0.5)
    chosen.parts = 2
    before = next(chosen.teacher.parameters()).clone()
    moved = []
    for _ in range(4):  # two steps; the student changes after each
        one_step(chosen)
        moved.append(float((next(chosen.teacher.parameters()) - before).abs().max()))
        if int(chosen.calls) % 2 == 0:
            with torch.no_grad():
                next(chosen.model.parameters()).add_(0.5)
    assert moved == pytest.approx([0.0, 0.0, 0.25, 0.25], abs=1e-6)
    assert chosen.step == 2


def test_apl_without_doubt_is_pl_bit_for_bit(trained: dict[str, Any]) -> None:
    """Property 12: a threshold of 0 flags nothing."""
    plain = objective(trained, method="pl")
    doubting = objective(trained, method="apl", threshold="0")
    assert torch.equal(one_step(plain)["loss"], one_step(doubting)["loss"])
    for a, b in zip(plain.model.parameters(), doubting.model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "supervised"},
        {"method": "pl"},
        {"method": "filter", "filter_above": 0.5},
        {"method": "mask-token", "threshold": "0.6"},
        {"method": "apl"},
        {"method": "apl", "confidence": "posterior", "threshold": "rate"},
        {"method": "apl", "confidence": "perturbed", "threshold": "precision=0.3"},
        {"method": "apl", "confidence": "agreement", "alternatives": "topk:2"},
        {"method": "apl", "confidence": "fused", "soft": True},
        {"method": "apl", "threshold": "0.9", "alternatives": "star"},
        {"method": "apl", "threshold": "0.9", "alternatives": "star-mean"},
        {"method": "apl", "threshold": "0.9", "skip": -2.0, "extra": -3.0},
        {"method": "apl", "threshold": "0.9", "alternative_weight": -1.0},
        {"method": "oracle-flags"},
        {"method": "oracle-labels"},
        {"method": "pl", "contrast": "token"},
    ],
    ids=str,
)
def test_every_arm_takes_a_finite_step(trained: dict[str, Any], options: dict[str, Any]) -> None:
    chosen = objective(trained, **options)
    losses = one_step(chosen)
    assert all(torch.isfinite(value) for name, value in losses.items() if name != "tau")
    gradients = [p.grad for p in chosen.model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert all(p.grad is None for p in chosen.teacher.parameters())
    if options["method"] == "oracle-flags":
        assert float(losses["recall"]) in (0.0, 1.0)


def test_filters_keep_fewer_utterances(trained: dict[str, Any]) -> None:
    everything = one_step(objective(trained, method="pl"))["kept"]
    for options in (
        {"method": "filter", "filter_above": 1.0},
        {"method": "mask-token", "threshold": "1.0"},
        {"method": "apl", "threshold": "1.0"},
    ):
        losses = one_step(objective(trained, **options))
        assert losses["kept"] == 0 < everything
        assert losses["pseudo"] == 0


def test_contrast_waits_for_a_third_of_the_steps(trained: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(NETWORK, len(TOKENS))  # a fresh one makes errors
    chosen = Supervised(model, MethodOptions(contrast="token"), 3)
    batch = LABELLED.batch(range(6))
    found = [float(chosen(batch)["contrast"]) for _ in range(2)]
    assert found[0] == 0 < found[1]


def test_pseudo_labels_help_to_the_end(trained: dict[str, Any]) -> None:
    model = model_of(trained)
    stage = StageOptions(pseudo_steps=15, labelled_batch=4)
    options = MethodOptions(method="apl", retune_every=5)
    before = score_greedy(model, DEV).rate
    _, fitted = train_pseudo(
        model, LABELLED, UNLABELLED, DEV, options, stage,
        SHORT.model_copy(update={"save_every": 5}), start(RUN),
    )  # fmt: skip
    assert fitted.steps == 15
    assert score_greedy(model, DEV).rate == pytest.approx(-fitted.best)
    assert -fitted.best <= before + 0.1
