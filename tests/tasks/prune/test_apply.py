"""The main job end to end on the embedded network: small sizes, the real code."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mlkit
from mlkit.core.checkpoint import read_metadata
from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.media import read_image
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.tasks import prune as method
from mlkit.tasks.prune import PruneConfig
from mlkit.tasks.prune.apply import PruneResult
from mlkit.tasks.prune.zoo import EMBEDDED, open_model

SMALL = {
    "synthetic_images": 16,
    "iterations": 6,
    "repair_steps": 12,
    "repair_batch": 14,
    "latency_runs": 2,
}


def prune(tmp_path: Path, progress: Silent | None = None, **options: Any) -> PruneResult:
    options = {**SMALL, "out": tmp_path / "m.safetensors", "overwrite": True, **options}
    return method.prune(PruneConfig(**options), RunOptions(device="cpu"), progress)


def test_end_to_end_without_data(tmp_path: Path) -> None:
    run, plot = tmp_path / "run", tmp_path / "p.png"
    effort = {"synthetic_images": 32, "iterations": 20}
    result = prune(tmp_path, run=run, plot=plot, data_free=True, **effort)
    metrics = result.metrics
    assert metrics["parameters"] == {"before": 174_970, "after": 89_498}
    assert metrics["channels"] == {"before": 224, "after": 112}
    top1 = {name: score["value"] for name, score in metrics["top1"].items()}
    assert list(top1) == ["original", "pruned", "norms re-estimated", "repaired"]
    assert top1["original"] == 0.952
    assert top1["repaired"] > top1["pruned"] + 0.3
    model = mlkit.load(tmp_path / "m.safetensors")
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(model(images), result.model(images))  # type: ignore[misc]
    content = read_metadata(tmp_path / "m.safetensors").content
    assert content["metrics"]["top1"] == metrics["top1"]
    assert content["config"]["sparsity"] == 0.5
    assert json.loads(json.dumps(metrics)) == metrics
    names = {path.name for path in run.iterdir()}
    assert names >= {"run.toml", "report.html", "images.png", "layers.png", "images.safetensors"}
    assert read_image(plot).width > 300


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    def tensors(name: str) -> dict[str, torch.Tensor]:
        prune(tmp_path, out=tmp_path / name)
        return mlkit.load(tmp_path / name).state_dict()

    first, second = tensors("a.safetensors"), tensors("b.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sparsity_zero_changes_nothing(tmp_path: Path) -> None:
    result = prune(tmp_path, sparsity=0.0)
    original, _ = open_model(EMBEDDED, None, None, None, False)
    found = mlkit.load(tmp_path / "m.safetensors").state_dict()
    assert all(torch.equal(v, found[k]) for k, v in original.state_dict().items())
    assert read_metadata(tmp_path / "m.safetensors").content["slices"] == {}
    assert result.metrics["top1"]["pruned"] == result.metrics["top1"]["original"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = prune(tmp_path, dry_run=True, run=tmp_path / "run")
    assert result.metrics["parameters"]["after"] == 89_498
    assert result.metrics["layers"][0] == ["layer1.0.conv1", 16, 8]
    assert list(tmp_path.iterdir()) == []


def test_real_images_stored_images_and_no_repair(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.effect_noise((40, 30), 60 + i).save(photos / f"{i}.png")
    (photos / "broken.png").write_bytes(b"x")
    progress = Silent()
    on_photos = prune(tmp_path, progress, images=photos)
    assert on_photos.metrics["repair_loss"] > 0
    assert "broken.png" in progress.warnings[0]
    first = prune(tmp_path, run=tmp_path / "run")
    stored = prune(tmp_path, synthetic=tmp_path / "run" / "images.safetensors")
    assert stored.metrics["repair_loss"] == first.metrics["repair_loss"]
    bare = prune(tmp_path, repair=False)
    assert bare.metrics["repair_loss"] is None
    assert list(bare.metrics["top1"]) == ["original", "pruned"]


def test_stages_scopes_and_a_second_pruning(tmp_path: Path) -> None:
    staged = prune(tmp_path, stages=3)
    assert staged.metrics["parameters"]["after"] == 89_498
    everything = prune(tmp_path, scope="all", compensate=True, criterion="bn")
    assert everything.metrics["parameters"]["after"] < 89_498
    again = prune(
        tmp_path,
        weights=str(tmp_path / "m.safetensors"),
        out=tmp_path / "twice.safetensors",
        sparsity=0.3,
        min_channels=2,
    )
    parameters = again.metrics["parameters"]
    assert parameters["before"] == everything.metrics["parameters"]["after"]
    loaded = mlkit.load(tmp_path / "twice.safetensors")
    assert sum(p.numel() for p in loaded.parameters()) == parameters["after"]


@pytest.mark.parametrize(("part", "when"), [("synthesising images", 8), ("repairing", 7)])
def test_an_interrupted_run_is_resumed_to_the_same_model(
    tmp_path: Path, part: str, when: int
) -> None:
    # A shell that starts the tests in the background makes them deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = {"synthesis_batch": 8}
    whole = prune(tmp_path, run=tmp_path / "whole", **options)

    class Stopping(Silent):
        """Presses Ctrl-C in the middle of a part."""

        steps = 0

        def task(self, title: str, total: int | None = None) -> Any:
            @contextmanager
            def watch() -> Any:
                class Task:
                    def advance(task, steps: int = 1, note: str = "") -> None:
                        self.steps += title == part
                        if self.steps == when:
                            self.steps += 1
                            os.kill(os.getpid(), signal.SIGINT)

                yield Task()

            return watch()

    out = tmp_path / "cut.safetensors"
    with pytest.raises(InterruptedRun, match="interrupted") as caught:
        prune(tmp_path, Stopping(), run=tmp_path / "cut", out=out, **options)
    assert f"--resume {tmp_path / 'cut'}" in caught.value.hint
    assert not out.exists()
    resumed = prune(tmp_path, resume=tmp_path / "cut", out=out, **options)
    assert resumed.metrics["repair_loss"] == whole.metrics["repair_loss"]
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(a, b)


def test_a_detector_by_its_backbone(tmp_path: Path) -> None:
    progress = Silent()
    result = prune(
        tmp_path,
        progress,
        model="ssdlite320_mobilenet_v3_large",
        random_init=True,
        synthetic_images=4,
        iterations=3,
        repair_steps=1,
        repair_batch=2,
        image_size=160,
    )
    assert result.metrics["macs"]["of"] == "backbone"
    assert "random" in progress.warnings[0]
    loaded = mlkit.load(tmp_path / "m.safetensors")
    assert loaded([torch.rand(3, 64, 64)])[0]["boxes"].shape[1] == 4


def test_bad_requests(tmp_path: Path, class_folder: Path) -> None:
    with pytest.raises(DataError, match="nothing to prune"):
        prune(tmp_path, min_channels=64)
    with pytest.raises(DataError, match="no BatchNorm"):
        prune(tmp_path, model="squeezenet1_0", random_init=True, image_size=64)
    with pytest.raises(UsageError, match="--eval measures classifiers"):
        prune(
            tmp_path,
            model="ssdlite320_mobilenet_v3_large",
            random_init=True,
            eval_data=class_folder,
        )
    (tmp_path / "m.safetensors").touch()
    with pytest.raises(DataError, match="exists already"):
        prune(tmp_path, overwrite=False)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        prune(tmp_path, resume=tmp_path / "nowhere")
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="does not say which model"):
        prune(tmp_path, weights=str(tmp_path / "w.pth"))
    many = tmp_path / "many"
    for i in range(11):
        (many / f"c{i:02}").mkdir(parents=True)
        Image.new("L", (28, 28)).save(many / f"c{i:02}" / "x.png")
    with pytest.raises(DataError, match="11 classes, the model 10"):
        prune(tmp_path, eval_data=many)


def test_images_of_an_earlier_run_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    first = prune(tmp_path, run=tmp_path / "run")
    other = prune(tmp_path, run=tmp_path / "run", iterations=3)
    assert other.metrics["repair_loss"] != first.metrics["repair_loss"]


def test_an_existing_run_is_not_overwritten_silently(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").touch()
    with pytest.raises(UsageError, match="holds a run already"):
        prune(tmp_path, run=tmp_path / "run", overwrite=False)
