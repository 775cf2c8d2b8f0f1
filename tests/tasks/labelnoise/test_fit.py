from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.labelnoise import fit
from mlkit.tasks.labelnoise.checkpoint import load, open_trained
from mlkit.tasks.labelnoise.config import (
    LabelnoiseTraining,
    MixMatchOptions,
    TrainConfig,
)
from mlkit.tasks.labelnoise.cotraining import LAMBDA_U, CoTraining
from mlkit.tasks.labelnoise.data import Images, open_images
from mlkit.tasks.labelnoise.handover import draw
from mlkit.tasks.labelnoise.model import BUILDERS, Pair

RUN = RunOptions(device="cpu", seed=3)
SHORT = LabelnoiseTraining(epochs=3, batch_size=16, lr=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 96 drawn shapes in two classes, a tenth of them labelled wrongly."""
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], [64, 32])
    shapes = [draw(("circle", "cross")[k], random) for k in truth]
    labels = np.where(random.random(96) < 0.1, 1 - truth, truth)
    np.savez(path, images=np.stack(shapes), labels=labels)
    np.savez(path.parent / "val.npz", images=np.stack(shapes), labels=truth)
    return path


def config(folder: Path, out: Path, **options: Any) -> TrainConfig:
    values = {"warmup_epochs": 1, "image_size": 12, "val": folder.parent / "val.npz", **options}
    return TrainConfig(data=folder, out=out, **values)


def assert_same_file(one: Path, two: Path) -> None:
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_resumed_equals_uninterrupted_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the middle of an epoch: the split that was made at its start must survive."""
    options = SHORT.model_copy(update={"save_every": 2})
    whole, cut = config(folder, tmp_path / "whole"), config(folder, tmp_path / "cut")
    fit.train(whole, options, RUN)
    real, calls = fit.accuracies, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(fit, "accuracies", interrupted)
    with pytest.raises(InterruptedRun):
        fit.train(cut, options, RUN)
    monkeypatch.setattr(fit, "accuracies", real)
    fit.train(cut.model_copy(update={"resume": cut.out}), options, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_file(whole.out / name, cut.out / name)
    assert (whole.out / "metrics.jsonl").read_text() == (cut.out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("selector", ["tabasco", "gmm-loss", "wjsd", "acd", "jsd", "keep"])
def test_every_selector_trains(folder: Path, tmp_path: Path, selector: str) -> None:
    chosen = config(folder, tmp_path / "run", selector=selector, prior="estimated")
    result = fit.train(chosen, SHORT.model_copy(update={"epochs": 2}), RUN)
    assert 0 < result.metrics["trusted"] <= 1
    assert (result.metrics["trusted"] == 1) == (selector == "keep")
    trained = open_trained(chosen.out / "best.safetensors")
    assert trained.counts == tuple(open_images(folder, 12, Silent()).counts.tolist())
    levels = open_images(folder, 12, Silent()).levels.float()
    with torch.no_grad():
        logits = load(chosen.out / "best.safetensors")(levels)
    assert logits.shape == (96, 2)
    assert (chosen.out / "report.html").exists()


def test_it_learns_in_spite_of_wrong_labels(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, tmp_path / "run", warmup_epochs=6, lambda_u="5", ramp=4.0)
    result = fit.train(chosen, SHORT.model_copy(update={"epochs": 14}), RUN)
    assert result.metrics["best"] > 0.85


def test_what_the_selection_finds_is_used(folder: Path) -> None:
    images = open_images(folder, 12, Silent())
    objective = make(images, MixMatchOptions(warmup_epochs=1))
    objective.seen.fill_(2)
    assert "guessed" in objective(torch.tensor([8, 5]))
    assert not objective.clean.all()
    assert bool((objective.weight[objective.clean] > 0.5).all())
    objective.clean.fill_(True)
    objective.seen.fill_(3)
    losses = objective(torch.tensor([8, 5]))
    assert losses["guessed"] == 0  # nothing is left to guess


def test_the_weight_of_guesses_follows_the_metric(folder: Path) -> None:
    from mlkit.tasks.labelnoise.selection import Selection

    images = open_images(folder, 12, Silent())
    empty = np.zeros(0)
    by_acd = [Selection(empty, empty, np.array(["acd", "impostor"], dtype=object))]
    by_wjsd = [Selection(empty, empty, np.array(["wjsd", "acd"], dtype=object))]
    automatic = make(images, MixMatchOptions())
    assert automatic._lambda(by_acd) == 0
    assert automatic._lambda(by_wjsd) == LAMBDA_U
    assert make(images, MixMatchOptions(lambda_u="7"))._lambda(by_acd) == 7


def make(images: Images, options: MixMatchOptions) -> CoTraining:
    torch.manual_seed(0)
    return CoTraining(Pair("small", 2), images, options, "tabasco", 2, start(RUN))


def test_a_step_moves_both_networks_and_no_guess_carries_gradients(folder: Path) -> None:
    objective = make(open_images(folder, 12, Silent()), MixMatchOptions(warmup_epochs=1))
    objective.seen.fill_(2)
    objective(torch.tensor([8, 5]))["loss"].backward()
    for network in (objective.model.first, objective.model.second):
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("name", "width"), [("small", 64), ("preact18", 512), ("resnet18", 512)])
def test_networks_answer_with_features(name: str, width: int) -> None:
    network = BUILDERS[name](7).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (2, width)
        assert torch.allclose(network.head(features), network(images), atol=1e-5)
    if name == "preact18":  # 11,171,146 of PreAct ResNet-18, and BatchNorm behind the stem
        ten = sum(p.numel() for p in BUILDERS[name](10).parameters())
        assert ten == 11_171_274


def test_the_preset_of_the_paper_fills_what_was_not_given(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, tmp_path, preset="paper", warmup_epochs=2)
    filled, training = fit.resolve(chosen, LabelnoiseTraining())
    assert (filled.network, filled.warmup_epochs, filled.lambda_u) == ("preact18", 2, "25")
    assert (training.epochs, training.lr, training.schedule) == (100, 0.02, "constant")
    assert fit.resolve(chosen, LabelnoiseTraining(epochs=3))[1].epochs == 3


def test_runs_are_not_overwritten_and_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, tmp_path / "run", val=None)
    one = SHORT.model_copy(update={"steps": 1})
    progress = Silent()
    fit.train(chosen, one, RUN, progress)
    assert any("without --val" in text for text in progress.warnings)
    with pytest.raises(UsageError, match="holds a run already"):
        fit.train(chosen, one, RUN)
    with pytest.raises(UsageError, match="accumulate"):
        fit.train(chosen, one.model_copy(update={"accumulate": 2}), RUN)
    save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, Metadata("labelnoise", "model", {}))
    with pytest.raises(CheckpointError, match="lacks or distorts"):
        open_trained(tmp_path / "x.safetensors")
