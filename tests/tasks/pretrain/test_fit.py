from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.results import Result
from mlkit.core.runtime import start
from mlkit.tasks.pretrain import apply, fit
from mlkit.tasks.pretrain.checkpoint import load, open_trained
from mlkit.tasks.pretrain.config import (
    BackboneOptions,
    ClipOptions,
    FinetuneTraining,
    PretrainConfig,
    PretrainTraining,
    ReadOptions,
    TrainConfig,
    resolve,
)

from . import training_script
from .helpers import RUN, write_videos

CLIP: dict[str, Any] = {"frames": 2, "stride": 2, "size": 16}
SHORT = PretrainTraining(epochs=3, batch_size=4, lr=0.01)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), count=9)


def config(videos: Path, out: Path, **options: Any) -> PretrainConfig:
    values = {"width": 0.25, "dim": 8, "hidden": 16, "prototypes": 6, **CLIP, **options}
    return PretrainConfig(videos=videos, out=out, **values)


def learn(videos: Path, out: Path, training: PretrainTraining = SHORT, **options: Any) -> Result:
    return apply.pretrain(config(videos, out, **options), training, RUN)


def assert_same_file(one: Path, two: Path) -> None:
    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let the function fail at its `call`-th call, as a user who stops the run."""
    real, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise InterruptedRun("enough")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("method", ["moco", "byol", "simclr", "swav"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Queue, teacher, prototypes and counts survive, and the schedule goes on where it was."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    learn(videos, whole, method=method)
    with monkeypatch.context() as patch:
        interrupt(patch, apply, "outputs", 2)
        with pytest.raises(InterruptedRun):
            learn(videos, cut, method=method)
    learn(videos, cut, method=method, resume=cut)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_file(whole / name, cut / name)
    assert (whole / "metrics.jsonl").read_text() == (cut / "metrics.jsonl").read_text()
    assert (whole / "report.html").exists()


def test_a_run_says_what_was_learnt_and_opens_again(videos: Path, tmp_path: Path) -> None:
    result = learn(videos, tmp_path / "run", clips=3)
    assert result.metrics["videos"] == 9
    assert result.metrics["steps"] == 6
    assert 0 <= result.metrics["knn"] <= 1
    assert result.metrics["std"] > 0.01
    options = BackboneOptions(), ClipOptions(), ReadOptions()
    trained = open_trained(tmp_path / "run" / "best.safetensors", *options)
    assert (trained.clip.frames, trained.clip.size, trained.backbone.width) == (2, 16, 0.25)
    given = BackboneOptions(), ClipOptions(frames=4), ReadOptions()
    assert open_trained(tmp_path / "run" / "best.safetensors", *given).clip.frames == 4
    features = load(tmp_path / "run" / "best.safetensors")(torch.zeros(2, 2, 16, 16, 3))
    assert features.shape == (2, 32)


def test_parts_of_a_step_move_the_teacher_once(videos: Path, tmp_path: Path) -> None:
    training = SHORT.model_copy(update={"accumulate": 2})
    result = learn(videos, tmp_path / "run", training, method="moco")
    assert result.metrics["steps"] == 6
    state = load_file(tmp_path / "run" / "last.safetensors")
    assert int(state["state.model.calls"]) == 12


def test_the_teacher_of_byol_ends_with_the_encoder(videos: Path, tmp_path: Path) -> None:
    """m rises to 1, so that the teacher hardly moves at the end; a fixed m = 0 copies."""
    learn(videos, tmp_path / "run", method="byol", teacher_momentum=0.0, anneal=False)
    state = load_file(tmp_path / "run" / "last.safetensors")
    one, two = (state[f"state.model.{k}.projector.0.weight"] for k in ("model", "teacher"))
    assert 0 < float((one - two).abs().max()) < 0.05  # one step behind


@pytest.mark.parametrize(
    ("options", "training", "error", "said"),
    [
        ({}, {"batch_size": 1}, UsageError, "nothing to compare a video with"),
        ({}, {"batch_size": 4, "accumulate": 4}, UsageError, "leave 1 per process"),
        ({"method": "moco", "queue": 6}, {}, UsageError, "--queue 6: no multiple of the 4"),
        ({"frames": 8, "stride": 4}, {}, DataError, "all 9 videos are no longer than a clip"),
    ],
)
def test_what_cannot_be_learnt_from(
    videos: Path, tmp_path: Path, options: Any, training: Any, error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        learn(videos, tmp_path / "run", SHORT.model_copy(update=training), **options)


def test_a_folder_with_a_run_is_refused(videos: Path, tmp_path: Path) -> None:
    learn(videos, tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run already"):
        learn(videos, tmp_path / "run")


def test_one_clip_is_said_to_be_the_control(videos: Path, tmp_path: Path) -> None:
    sink = Silent()
    apply.pretrain(config(videos, tmp_path / "run", clips=1), SHORT, RUN, sink)
    assert any("--clips 1" in text for text in sink.warnings)


def test_the_paper_is_a_preset() -> None:
    for method, lr, optimizer, decay, hidden in (
        ("moco", 0.4, "sgd", 1e-4, 2048),
        ("byol", 4.8, "lars", 1e-6, 4096),
        ("swav", 4.8, "lars", 1e-6, 2048),
    ):
        wanted = PretrainConfig(videos="v", method=method, preset="paper")  # type: ignore[arg-type]
        chosen, training = resolve(wanted, PretrainTraining())
        assert (chosen.backbone, chosen.size, chosen.hidden) == ("slow_r50", 224, hidden)
        assert (training.batch_size, training.lr) == (512, lr)
        assert (training.optimizer, training.weight_decay) == (optimizer, decay)
        assert chosen.head_norm == (method != "moco")
    given = PretrainConfig(videos="v", preset="paper", size=112)
    chosen, training = resolve(given, PretrainTraining(batch_size=64, lr=0.3))
    assert (chosen.size, training.lr, training.batch_size) == (112, 0.3, 64)


# --- fine-tuning ---


def tune(videos: Path, out: Path, **options: Any) -> Result:
    values = {"width": 0.25, "dropout": 0.0, **CLIP, **options}
    if "weights" in values:
        values = {k: v for k, v in values.items() if k not in (*CLIP, "width")}
    else:
        values["random_init"] = True
    training = FinetuneTraining(epochs=options.pop("epochs", 3), batch_size=4, lr=0.05)
    return fit.train(TrainConfig(data=videos, out=out, **values), training, RUN)


def test_fine_tuning_resumes_bit_for_bit(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(videos, tmp_path / "whole", val=videos)
    with monkeypatch.context() as patch:
        interrupt(patch, fit, "class_probs", 2)
        with pytest.raises(InterruptedRun):
            tune(videos, tmp_path / "cut", val=videos)
    tune(videos, tmp_path / "cut", val=videos, resume=tmp_path / "cut")
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_file(tmp_path / "whole" / name, tmp_path / "cut" / name)


def test_a_frozen_encoder_stays_as_it_was(videos: Path, tmp_path: Path) -> None:
    learn(videos, tmp_path / "run")
    weights = tmp_path / "run" / "best.safetensors"
    result = tune(videos, tmp_path / "probe", weights=weights, freeze=True)
    assert result.metrics["classes"] == 2
    before, after = load_file(weights), load_file(tmp_path / "probe" / "best.safetensors")
    for name, tensor in before.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, after[name])
    changed = tune(videos, tmp_path / "whole", weights=weights)
    assert changed.metrics["top1"] >= 0
    tuned = load_file(tmp_path / "whole" / "best.safetensors")
    name = next(k for k in before if k.startswith("backbone.") and k.endswith("weight"))
    assert not torch.equal(before[name], tuned[name])
    with pytest.raises(UsageError, match="is fine-tuned already"):
        tune(videos, tmp_path / "again", weights=tmp_path / "whole" / "best.safetensors")


def test_what_cannot_be_fine_tuned(videos: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text(f"path,label\n{videos.parent}/0.npy,a\n{videos.parent}/1.npy,a\n")
    with pytest.raises(DataError, match="has a single class: a"):
        tune(one, tmp_path / "run")
    one.write_text(f"path\n{videos.parent}/0.npy\n{videos.parent}/1.npy\n")
    with pytest.raises(DataError, match="has no labels"):
        tune(one, tmp_path / "run")
    one.write_text(f"path,label\n{videos.parent}/0.npy,other\n")
    with pytest.raises(DataError, match="class other does not occur"):
        tune(videos, tmp_path / "run", val=one)
    with pytest.raises(UsageError, match="on noise"):
        tune(videos, tmp_path / "run", freeze=True)


def test_weights_of_another_network_are_refused(videos: Path, tmp_path: Path) -> None:
    learn(videos, tmp_path / "run")
    weights = tmp_path / "run" / "best.safetensors"
    options = BackboneOptions(backbone="slow_r18"), ClipOptions(), ReadOptions()
    with pytest.raises(CheckpointError, match="holds backbone tiny, not slow_r18"):
        open_trained(weights, *options)


def test_files_of_the_official_code_are_renamed(tmp_path: Path) -> None:
    """A .pyth of PySlowFast: its names, wrapped, beside heads and the momentum encoder."""
    from mlkit.tasks.pretrain.backbones import build_backbone

    own = build_backbone("slow_r50", 0.125)[0].state_dict()
    official = {"head.projection.0.weight": torch.zeros(2), "backbone_hist.s1.x": torch.zeros(1)}
    for name, tensor in own.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            key = f"s1.pathway0_stem.{parts[0][:-1]}.{parts[1]}"
        else:
            stage = int(parts[0][-1]) + 1
            inner = {"downsample.0": "branch1", "downsample.1": "branch1_bn"}.get(
                ".".join(parts[2:4]), f"branch2.{'abc'[int(parts[2][-1]) - 1]}"
                + ("_bn" if parts[2].startswith("bn") else "")
                if parts[2] != "downsample" else "",
            )  # fmt: skip
            key = f"s{stage}.pathway0_res{parts[1]}.{inner}.{parts[-1]}"
        official[f"backbone.{key}"] = tensor
    torch.save({"epoch": 3, "model_state": official}, tmp_path / "rho.pyth")
    options = BackboneOptions(backbone="slow_r50", width=0.125), ClipOptions(), ReadOptions()
    opened = open_trained(tmp_path / "rho.pyth", *options).network.state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in own.items())
    with pytest.raises(CheckpointError, match="holds nothing of a tiny"):
        open_trained(tmp_path / "rho.pyth", BackboneOptions(), ClipOptions(), ReadOptions())


# --- several processes ---


def test_two_processes_are_one_with_all_samples(tmp_path: Path) -> None:
    """Statistics, negatives, queue and codes span processes: same batches, same weights."""
    training_script.run(tmp_path / "1", start(RunOptions(seed=5, device="cpu")))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, training_script.__file__, str(tmp_path / "2")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for method in ("moco", "byol", "simclr", "swav"):
        one, two = (load_file(tmp_path / n / method / "last.safetensors") for n in "12")
        for name, tensor in one.items():
            if name.startswith("state.model.") and tensor.is_floating_point():
                torch.testing.assert_close(
                    two[name], tensor, rtol=2e-3, atol=2e-4, msg=f"{method}: {name}"
                )
