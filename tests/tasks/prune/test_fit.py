from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import mlkit
from mlkit.core.checkpoint import read_metadata
from mlkit.core.errors import DataError, UsageError
from mlkit.core.options import RunOptions, TrainOptions
from mlkit.tasks.prune import PruneConfig, TrainConfig, prune, train

QUICK = TrainOptions(epochs=4, batch_size=8, lr=0.05)
RUN = RunOptions(device="cpu")


def test_two_colours_are_learnt_pruned_and_trained_on(class_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(TrainConfig(data=class_folder, out=run, image_size=16, val=0.2), QUICK, RUN)
    assert result.metrics["steps"] == 8
    assert {p.name for p in run.iterdir()} >= {"best.safetensors", "run.toml", "report.html"}
    model = mlkit.load(run / "best.safetensors")
    assert model.fc.out_features == 2
    out = tmp_path / "small.safetensors"
    options = {"synthetic_images": 8, "iterations": 3, "repair_steps": 2, "latency_runs": 2}
    pruned = prune(PruneConfig(weights=str(run / "best.safetensors"), out=out, **options), RUN)
    assert pruned.metrics["parameters"]["after"] < pruned.metrics["parameters"]["before"]
    config = TrainConfig(data=class_folder, weights=out, out=tmp_path / "again", val=0.0)
    train(config, QUICK, RUN)
    content = read_metadata(tmp_path / "again" / "best.safetensors").content
    assert content["slices"]
    again = mlkit.load(tmp_path / "again" / "best.safetensors")
    assert sum(p.numel() for p in again.parameters()) == pruned.metrics["parameters"]["after"]


def test_a_run_is_not_started_over_by_accident(class_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=class_folder, out=tmp_path / "run", image_size=8)
    train(config, QUICK, RUN)
    with pytest.raises(UsageError, match="holds a run already") as caught:
        train(config, QUICK, RUN)
    assert "--resume" in caught.value.hint


def test_idx_folders(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (12, 28, 28), dtype=np.uint8)
    for name, array in (
        ("images-idx3", images),
        ("labels-idx1", np.arange(12, dtype=np.uint8) % 3),
    ):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        data = gzip.compress(header + array.tobytes())
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(data)
    config = TrainConfig(data=tmp_path, out=tmp_path / "run", model="fashion_resnet14", val=0.0)
    train(config, TrainOptions(epochs=1, batch_size=4), RUN)
    assert mlkit.load(tmp_path / "run" / "best.safetensors").fc.out_features == 3


def test_too_few_images(tmp_path: Path, class_folder: Path) -> None:
    for path in class_folder.rglob("*.png"):
        if path.name != "0.png" or path.parent.name == "red":
            path.unlink()
    (class_folder / "red").rmdir()
    with pytest.raises(DataError, match="too few"):
        train(TrainConfig(data=class_folder, out=tmp_path / "run", image_size=8), QUICK, RUN)
