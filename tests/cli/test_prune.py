from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mlkit as package

Mlkit = Callable[..., Any]
WEIGHTS = Path(__file__).parents[2] / "tasks" / "prune" / "weights" / "fashion_resnet14.safetensors"
SMALL = [
    "--synthetic-images",
    "16",
    "--iterations",
    "5",
    "--repair-steps",
    "4",
    "--latency-runs",
    "2",
]


def test_smoke_of_every_verb(mlkit: Mlkit, tmp_path: Path, class_folder: Path) -> None:
    out = tmp_path / "small.safetensors"
    result = mlkit("prune", "--data-free", *SMALL, "-o", out, "--plot", tmp_path / "p.png")
    assert result.code == 0, result.err
    for word in ("parameters", "multiply-adds", "latency", "repaired", "norms re-estimated"):
        assert word in result.out
    assert "fashion_resnet14" in mlkit("info", out).out
    scored = mlkit("eval", "prune", "--weights", WEIGHTS, "--weights", out, "--limit", "100")
    assert scored.code == 0, scored.err
    assert scored.out.count("%") == 4
    run = tmp_path / "run"
    options = ["--epochs", "2", "--batch-size", "8", "--image-size", "16", "-o", run]
    trained = mlkit("train", "prune", class_folder, *options)
    assert trained.code == 0, trained.err
    assert (run / "best.safetensors").exists()
    checked = mlkit("check", "prune", class_folder)
    assert checked.code == 0
    assert "20 images, 2 classes" in checked.out
    table = class_folder / "labels.csv"
    table.write_text("path,label\nred/0.png,red\nred/1.png,red\nblue/0.png,blue\n")
    checked = mlkit("check", "prune", table)
    assert checked.code == 0, checked.err
    assert "3 images, 2 classes" in checked.out


def test_the_json_document(mlkit: Mlkit, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = mlkit("prune", *SMALL, "-o", out, "--json", "--quiet")
    document = json.loads(result.out)
    assert result.err == ""
    assert document["outputs"] == {"model": str(out)}
    assert set(document["metrics"]) == {
        "criterion",
        "schedule",
        "parameters",
        "macs",
        "bytes",
        "latency_ms",
        "channels",
        "top1",
        "repair_loss",
    }


def test_precedence_of_flag_environment_file_default(
    mlkit: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*arguments: Any) -> Any:
        result = mlkit("prune", "--dry-run", "--json", *arguments)
        assert result.code == 0, result.out
        return json.loads(result.out)["metrics"]["parameters"]["after"]

    file = tmp_path / "c.toml"
    file.write_text("[prune]\nsparsity = 0.25\n")
    by_flag = {s: plan("-s", s) for s in ("0.1", "0.25", "0.5")}
    assert plan() == by_flag["0.5"]
    assert plan("--config", file) == by_flag["0.25"]
    assert plan("--config", file, "-s", "0.1") == by_flag["0.1"]
    monkeypatch.setenv("MLKIT_DEVICE", "tpu")
    assert mlkit("prune", "--dry-run").code == 2
    assert mlkit("prune", "--dry-run", "--device", "cpu").code == 0
    monkeypatch.delenv("MLKIT_DEVICE")
    file.write_text("[prune]\nsparsty = 0.25\n")
    wrong = mlkit("prune", "--dry-run", "--config", file)
    assert wrong.code == 2
    assert "sparsty" in wrong.err


def test_broken_images_are_counted_and_listed(mlkit: Mlkit, class_folder: Path) -> None:
    (class_folder / "red" / "0.png").write_bytes(b"no")
    result = mlkit("check", "prune", class_folder, "--json")
    assert result.code == 3
    document = json.loads(result.out)
    assert list(document["failures"]) == [str(class_folder / "red" / "0.png")]


def test_a_checkpoint_of_another_kind(mlkit: Mlkit, tmp_path: Path) -> None:
    from mlkit.core.checkpoint import Metadata, save

    path = tmp_path / "x.safetensors"
    save(path, {"a": torch.ones(1)}, Metadata("denoise", "model"))
    result = mlkit("prune", "--weights", path)
    assert result.code == 4
    assert "'denoise'" in result.err
    assert "'prune'" in result.err


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.filterwarnings("ignore")
def test_export_agrees(mlkit: Mlkit, tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"m{suffix}"
    result = mlkit("export", WEIGHTS, "-o", out, "--json")
    assert result.code == 0, result.out
    assert json.loads(result.out)["metrics"]["relative_difference"] < 1e-4
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out))
        images = torch.randn(5, 1, 28, 28)
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(found, package.load(WEIGHTS)(images), atol=1e-3, rtol=1e-3)
    assert mlkit("export", WEIGHTS, "-o", out).code == 3
    assert mlkit("export", WEIGHTS, "-o", tmp_path / "m.xyz").code == 2


def test_ctrl_c_names_the_checkpoint_and_resume_continues(
    mlkit: Mlkit, tmp_path: Path, class_folder: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mlkit", "train", "prune", str(class_folder), "-o", str(run)]
    command += [
        "--image-size",
        "16",
        "--batch-size",
        "4",
        "--epochs",
        "400",
        "--save-every",
        "1",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "last.safetensors" in said
    assert f"--resume {run}" in said
    log = (run / "metrics.jsonl").read_text()
    done = json.loads(log.splitlines()[-1])["step"]
    resumed = mlkit("train", "prune", class_folder, "--resume", run, "--steps", str(done + 2))
    assert resumed.code == 0, resumed.err
    assert "changed: steps 0 ->" in resumed.err
    assert (run / "metrics.jsonl").read_text().startswith(log)


def test_the_demo_leaves_a_report(mlkit: Mlkit, tmp_path: Path, monkeypatch: Any) -> None:
    from mlkit.tasks.prune import synthesis

    monkeypatch.setitem(synthesis._SIZES, "quick", ((16, 5), (16, 5)))
    result = mlkit("demo", "prune", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "mlkit demo prune" in page


def test_images_alone_and_pruning_with_them(mlkit: Mlkit, tmp_path: Path) -> None:
    images, sheet, out = (tmp_path / name for name in ("i.safetensors", "s.png", "m.safetensors"))
    command = ["data", "synthetic-images", "-o", images]
    made = mlkit(*command, "--synthetic-images", "16", "--iterations", "3", "--plot", sheet)
    assert made.code == 0, made.err
    assert "mlkit prune --synthetic" in made.out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    again = mlkit(*command)
    assert again.code == 3
    assert "exists already" in again.err
    pruned = mlkit("prune", "--synthetic", images, *SMALL, "-o", out, "--json")
    assert pruned.code == 0, pruned.err
    wrong = mlkit("data", "synthetic-images", "--model", "squeezenet1_0", "--random-init")
    assert wrong.code == 3
    assert "no BatchNorm" in wrong.err
