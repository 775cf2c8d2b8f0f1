from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mlkit
from mlkit.core.errors import CheckpointError, DataError, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.runtime import stream
from mlkit.tasks.upscale import TrainConfig, UpscaleTraining, fit, train
from mlkit.tasks.upscale.blur import fit_estimator
from mlkit.tasks.upscale.data import Blurs, Patches, Tasks
from mlkit.tasks.upscale.kernels import covariance

from .helpers import picture

RUN = RunOptions(device="cpu")
SMALL = {"width": 4, "depth": 3, "patch": 24, "inner_steps": 2, "support": 2, "query": 2}
QUICK = UpscaleTraining(steps=4, batch_size=2, save_every=2, lr=1e-3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(*arguments: object) -> torch.Tensor:
        return fit_estimator(*arguments, samples=3)  # type: ignore[arg-type]

    monkeypatch.setattr(fit, "fit_estimator", few)
    monkeypatch.setattr(fit, "CROP", 48)


def test_both_stages_leave_their_weights(sharp_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = TrainConfig(
        data=sharp_folder, out=run, scales=(2, 3), sampling="both", pretrain=2, **SMALL
    )
    result = train(config, QUICK, RUN)
    assert {p.name for p in run.iterdir()} >= {"best.safetensors", "run.toml", "report.html"}
    first, last = (mlkit.load(p / "best.safetensors") for p in (run / "pretrain", run))
    assert (first.objective, last.objective) == ("bicubic", "meta")
    assert (last.scales, last.samplings, last.aligned) == ((2, 3), ("direct", "bicubic"), True)
    assert set(last.estimators) == {"direct.2", "bicubic.2"}  # too small for one at scale 3
    assert not torch.equal(first.network.conv1.weight, last.network.conv1.weight)
    assert not torch.equal(first.network.log_rates, last.network.log_rates)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"score", "unadapted", "first", "last"} <= set(history[-1])
    assert result.metrics["psnr"] == max(entry["score"] for entry in history)


@pytest.mark.parametrize("objective", ["meta", "joint"])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    sharp_folder: Path, tmp_path: Path, objective: str
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = TrainConfig(data=sharp_folder, out=whole, objective=objective, pretrain=2, **SMALL)
    train(config, QUICK, RUN)
    first = config.model_copy(update={"out": parts})
    train(first, QUICK.model_copy(update={"steps": 2}), RUN)
    train(first.model_copy(update={"resume": parts}), QUICK, RUN)
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(whole / name), load_file(parts / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "change",
    [
        {"second_order": False},
        {"learn_rates": False},
        {"step_weights": "last"},
        {"step_weights": "annealed"},
        {"aligned": False},
        {"input_rounds": 1},
        {"objective": "bicubic"},
    ],
)
def test_ablations_train(sharp_folder: Path, tmp_path: Path, change: dict[str, object]) -> None:
    config = TrainConfig(
        data=sharp_folder, out=tmp_path / "run", **{**SMALL, "pretrain": 0, **change}
    )
    train(config, QUICK.model_copy(update={"steps": 1, "save_every": 1}), RUN)
    start = mlkit.load(tmp_path / "run" / "best.safetensors")
    assert start.aligned == change.get("aligned", True)
    assert start.rounds == change.get("input_rounds", 0)
    assert start.objective == change.get("objective", "meta")
    learned = len(start.network.log_rates.unique()) > 1
    expected = change.get("learn_rates", True) and start.objective == "meta"
    # Under the weight "last", too, every step's size has a gradient.
    assert learned == expected


def test_training_goes_on_from_weights(sharp_folder: Path, tmp_path: Path) -> None:
    first = TrainConfig(data=sharp_folder, out=tmp_path / "a", objective="joint", **SMALL)
    train(first, QUICK, RUN)
    weights = tmp_path / "a" / "best.safetensors"
    second = TrainConfig(data=sharp_folder, out=tmp_path / "b", weights=weights, **SMALL)
    train(second, QUICK.model_copy(update={"steps": 1, "lr": 1e-9}), RUN)
    assert not (tmp_path / "b" / "pretrain").exists()
    a, b = (mlkit.load(tmp_path / n / "best.safetensors").network for n in "ab")
    torch.testing.assert_close(a.conv2.weight, b.conv2.weight, atol=1e-6, rtol=0)


def test_what_is_wrong_is_said(sharp_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2, 3 and 4 can be trained"):
        TrainConfig.create(data=sharp_folder, scales=(5,))
    with pytest.raises(UsageError, match="multiple of every"):
        TrainConfig.create(data=sharp_folder, scales=(3,), patch=64)
    with pytest.raises(DataError, match="patch of 96"):
        train(TrainConfig(data=sharp_folder, out=tmp_path / "a", patch=96), QUICK, RUN)
    missing = tmp_path / "none.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        train(TrainConfig(data=sharp_folder, out=tmp_path / "b", weights=missing), QUICK, RUN)
    for path in list(sharp_folder.iterdir())[3:]:
        path.unlink()
    with pytest.raises(DataError, match="3 images are too few"):
        train(TrainConfig(data=sharp_folder, out=tmp_path / "c"), QUICK, RUN)


def patches(**settings: object) -> Patches:
    pictures = [(picture(72, 80, seed=i) * 255).byte() for i in range(2)]
    pictures.append(torch.full((3, 72, 80), 9, dtype=torch.uint8))
    blurs = Blurs((2, 2, 3), ("direct", "bicubic"), **settings)  # type: ignore[arg-type]
    return Patches(pictures, 24, blurs)


def test_patches_lie_on_a_grid_and_flat_ones_are_left_out() -> None:
    source = patches()
    assert len(source) == 2 * 5 * 5
    assert set(source.places[:, 0].tolist()) == {0, 1}
    assert set(source.places[:, 1].tolist()) == {0, 12, 24, 36, 48}
    number, top, left = source.places[7].tolist()
    wanted = source.pictures[number][:, top : top + 24, left : left + 24] / 255
    assert torch.equal(source.cut(torch.tensor([7]))[0], wanted)


def test_pairs_and_tasks_are_degraded_patches() -> None:
    source = patches()
    inputs, targets = source.fetch(torch.arange(4), stream(0, 1))
    again, _ = source.fetch(torch.arange(4), stream(0, 1))
    assert inputs.shape == targets.shape == (4, 3, 24, 24)
    assert torch.equal(inputs, again)
    assert 0.005 < float((inputs - targets).abs().mean()) < 0.3
    task = Tasks(source, 3, 2).fetch(torch.arange(2), stream(0, 1))
    assert task.support.shape == task.support_target.shape == (2, 3, 3, 24, 24)
    assert task.query.shape == (2, 2, 3, 24, 24)
    own = source.cut(torch.tensor([0]))[0]
    first = task.support_target[0, 0]
    assert sorted(own.flatten().tolist()) == sorted(first.flatten().tolist())  # but turned


def test_blurs_are_drawn_in_the_proportions_of_the_lists() -> None:
    blurs, draw = patches().blurs, stream(0, 2)
    drawn = [blurs.draw(draw) for _ in range(600)]
    assert sum(d.scale == 2 for d in drawn) / 600 == pytest.approx(2 / 3, abs=0.05)
    assert sum(d.sampling == "direct" for d in drawn) / 600 == pytest.approx(1 / 2, abs=0.06)
    spread = max(float(covariance(d.kernel)[0]) for d in drawn if d.scale == 3)
    assert 5 < spread < 7.6
    plain = patches(plain=True).blurs.draw(draw)
    assert (plain.sampling, plain.kernel.numel()) == ("bicubic", 1)
