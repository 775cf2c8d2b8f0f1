from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mlkit
from mlkit.core.checkpoint import read_metadata
from mlkit.core.errors import CheckpointError, DataError, UsageError
from mlkit.core.options import RunOptions
from mlkit.tasks.denoise import DenoiseTraining, TrainConfig, train
from mlkit.tasks.denoise.data import Patches, read_grey
from mlkit.tasks.denoise.tuning import coarse_to_fine, interpolate, strength_and_scale

RUN = RunOptions(device="cpu")
SMALL = {"patch": 24, "channels": 6, "kernel_size": 3, "tune": ()}
QUICK = DenoiseTraining(steps=40, batch_size=8, lr=4e-3, save_every=20)


def test_training_beats_the_noise_and_leaves_a_tuned_prior(
    clean_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = TrainConfig(data=clean_folder, out=run, **SMALL)
    result = train(config, QUICK, RUN)
    assert {p.name for p in run.iterdir()} >= {"best.safetensors", "run.toml", "report.html"}
    noise_alone = 20.17  # PSNR of noise of 25 grey levels
    assert result.metrics["psnr"] > noise_alone + 2
    prior = mlkit.load(run / "best.safetensors")
    assert (prior.unroll, prior.rule, prior.sigma) == (1, "descent", 25.0)
    assert prior.tuning == []
    assert read_metadata(run / "best.safetensors").content["config"]["unroll"] == 1
    warm = TrainConfig(
        data=clean_folder,
        out=tmp_path / "warm",
        unroll=3,
        weights=run / "best.safetensors",
        **SMALL,
    )
    deeper = train(warm, QUICK.model_copy(update={"steps": 10, "save_every": 10}), RUN)
    assert deeper.metrics["psnr"] > noise_alone + 2
    only = TrainConfig(
        data=clean_folder, out=tmp_path / "only", tune_only=True, weights=run / "best.safetensors"
    )
    tuned = train(only.model_copy(update={"tune": (25.0,)}), QUICK, RUN)
    assert tuned.metrics["steps"] == 0
    (point,) = tuned.metrics["tuning"]
    assert point["sigma"] == 25
    assert point["psnr"] > deeper.metrics["psnr"] - 0.5
    again = load_file(tmp_path / "only" / "best.safetensors")
    assert torch.equal(again["filters.0"], load_file(run / "best.safetensors")["filters.0"])


def test_interrupted_and_resumed_is_the_same_to_the_bit(clean_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = DenoiseTraining(steps=6, batch_size=4, save_every=2, schedule="constant")
    config = TrainConfig(data=clean_folder, out=whole, **SMALL)
    train(config, options, RUN)
    first = config.model_copy(update={"out": parts})
    train(first, options.model_copy(update={"steps": 4}), RUN)
    train(first.model_copy(update={"resume": parts}), options, RUN)
    a, b = load_file(whole / "last.safetensors"), load_file(parts / "last.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    one, two = ((p / "metrics.jsonl").read_text() for p in (whole, parts))
    assert [json.loads(line) for line in one.splitlines()] == [
        json.loads(line) for line in two.splitlines()
    ]
    assert torch.equal(
        load_file(whole / "best.safetensors")["filters.1"],
        load_file(parts / "best.safetensors")["filters.1"],
    )


@pytest.mark.parametrize(
    "change",
    [{"activation": "relu"}, {"zero_mean": False}, {"tv2": 0.0}, {"step_rule": "averaged"}],
)
def test_ablations_train(clean_folder: Path, tmp_path: Path, change: dict[str, object]) -> None:
    settings = {**SMALL, **change}
    config = TrainConfig(data=clean_folder, out=tmp_path / "run", unroll=2, **settings)
    train(config, QUICK.model_copy(update={"steps": 3, "save_every": 3}), RUN)
    model = mlkit.load(tmp_path / "run" / "best.safetensors").model
    assert model.settings["activation"] == settings.get("activation", "spline")
    assert model.settings["zero_mean"] == settings.get("zero_mean", True)


def test_runs_are_not_started_over(clean_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=clean_folder, out=tmp_path / "run", **SMALL)
    train(config, QUICK.model_copy(update={"steps": 2}), RUN)
    with pytest.raises(UsageError, match="holds a run already"):
        train(config, QUICK, RUN)


def test_what_is_wrong_is_said(clean_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tune-only needs --weights"):
        TrainConfig.create(data=clean_folder, tune_only=True)
    with pytest.raises(UsageError, match="must be odd"):
        TrainConfig.create(data=clean_folder, kernel_size=4)
    with pytest.raises(DataError, match="as large as a patch of 100"):
        train(TrainConfig(data=clean_folder, out=tmp_path / "a", patch=100), QUICK, RUN)
    missing = tmp_path / "none.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        train(TrainConfig(data=clean_folder, out=tmp_path / "b", weights=missing), QUICK, RUN)
    for path in list(clean_folder.iterdir())[3:]:
        path.unlink()
    with pytest.raises(DataError, match="3 images are too few"):
        train(TrainConfig(data=clean_folder, out=tmp_path / "c"), QUICK, RUN)


def test_patches_are_those_of_the_grid(clean_folder: Path) -> None:
    pictures = [read_grey(path, scale) for path in clean_folder.iterdir() for scale in (1.0, 0.7)]
    patches = Patches(pictures, 24, 10, 0.1)
    expected = [
        picture[top : top + 24, left : left + 24]
        for picture in pictures
        for top in range(0, picture.shape[0] - 23, 10)
        for left in range(0, picture.shape[1] - 23, 10)
    ]
    assert len(patches) == len(expected)
    noisy, clean = patches.fetch(torch.arange(len(patches)), torch.Generator().manual_seed(0))
    assert torch.equal(clean, torch.stack(expected)[:, None] / 255)
    assert float((noisy - clean).std()) == pytest.approx(0.1, rel=0.02)


def test_the_search_finds_the_top_of_a_hill() -> None:
    from math import log

    seen = []

    def hill(a: float, b: float) -> float:
        seen.append((a, b))
        return -(log(a / 37) ** 2) - log(b / 0.6) ** 2

    a, b = coarse_to_fine(hill, (1.0, 1.0))
    assert a == pytest.approx(37, rel=0.04)
    assert b == pytest.approx(0.6, rel=0.04)
    assert len(seen) == len(set(seen))
    _, limited = coarse_to_fine(hill, (1.0, 0.1), largest_second=0.3)
    assert limited == pytest.approx(0.3, rel=0.04)


def test_interpolation_between_noise_levels() -> None:
    points = [(5.0, 3.0), (25.0, 23.0)]
    assert interpolate(points, 15.0) == pytest.approx(13.0)
    assert interpolate(points, 2.5) == pytest.approx(1.5)
    assert interpolate(points, 45.0) == pytest.approx(43.0)
    tuning = [{"sigma": s, "strength": a, "scale": 10 + s} for s, a in points]
    assert strength_and_scale(tuning, 15.0) == pytest.approx((13.0, 25.0))
    assert strength_and_scale(tuning, 1.0)[1] == pytest.approx(15.0)
    assert strength_and_scale(tuning, 60.0)[1] == pytest.approx(35.0)
