from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Mlkit = Callable[..., Any]


def shapes(height: int = 36, width: int = 44, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    clean = 120 + 60 * np.sin(x / 7 + seed) + 50 * (x > y)
    return np.clip(clean, 0, 255)


def save(path: Path, sigma: float = 20, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, sigma, (36, 44)) if sigma else 0
    pixels = np.clip(shapes(seed=seed) + noise, 0, 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    return save(tmp_path / "noisy.png")


def test_smoke_of_every_verb(mlkit: Mlkit, tmp_path: Path, noisy: Path) -> None:
    out, strip = tmp_path / "clean.png", tmp_path / "strip.png"
    result = mlkit("denoise", noisy, "-o", out, "--certify", "--plot", strip)
    assert result.code == 0, result.err
    for text in ("(estimated)", "prior convex", "proved", "distance to the minimiser"):
        assert text in result.out
    assert out.exists()
    assert strip.exists()
    clean = tmp_path / "clean"
    for i in range(4):
        save(clean / f"{i}.png", sigma=0, seed=i)
    options = ["--kernel-size", 3, "--channels", 4, "--patch", 20, "--tune", 0, "--steps", 2]
    trained = mlkit("train", "denoise", clean, "-o", tmp_path / "run", *options)
    assert trained.code == 0, trained.err
    weights = tmp_path / "run" / "best.safetensors"
    assert "denoise" in mlkit("info", weights).out
    scored = mlkit("eval", "denoise", clean, "-s", 10, "-s", 25, "--method", "tstep", "--limit", 2)
    assert scored.code == 0, scored.err
    assert scored.out.count("noisy") == 2
    checked = mlkit("check", "denoise", clean)
    assert checked.code == 0, checked.err
    assert "4, 0 unusable" in checked.out


def test_the_json_document(mlkit: Mlkit, tmp_path: Path, noisy: Path) -> None:
    out = tmp_path / "clean.png"
    result = mlkit("denoise", noisy, "-o", out, "--sigma", 20, "--json", "-q")
    assert result.code == 0, result.out
    assert result.err == ""
    document = json.loads(result.out)
    assert document["outputs"] == {"image": str(out)}
    record = document["metrics"]["images"][str(noisy)]
    assert set(record) == {
        "sigma",
        "sigma_estimated",
        "lambda",
        "mu",
        "iterations",
        "converged",
        "change",
        "gradient_norm",
        "distance_rms",
        "seconds",
    }


def test_eval_puts_the_prior_beside_tv(mlkit: Mlkit, tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / "clean" / f"{i}.png", sigma=0, seed=i)
    result = mlkit("eval", "denoise", tmp_path / "clean", "--json")
    assert result.code == 0, result.out
    scores = json.loads(result.out)["metrics"]["25"]
    assert set(scores) == {"noisy", "crr", "tv"}
    assert scores["noisy"]["psnr"] == pytest.approx(20.17, abs=0.3)
    assert scores["crr"]["psnr"] > scores["noisy"]["psnr"] + 3
    assert scores["crr"]["ssim"] > scores["noisy"]["ssim"]
    short = mlkit("eval", "denoise", tmp_path / "clean", "--iterations", 1, "--tol", 1e-9)
    assert short.code == 3
    assert "did not reach" in short.err


def test_a_pipe(mlkit: Mlkit, noisy: Path) -> None:
    result = mlkit("denoise", "-", "-o", "-", "--sigma", 20, stdin=noisy.read_bytes())
    assert result.code == 0, result.err
    with Image.open(io.BytesIO(result.raw)) as image:
        assert image.size == (44, 36)
    assert mlkit("denoise", "-", "-o", "-", "--json", stdin=b"").code == 2
    broken = mlkit("denoise", "-", "-o", "-", stdin=b"nothing")
    assert broken.code == 3
    assert "standard input is not a readable image" in broken.err


def test_folders_list_their_failures_and_exit_3(mlkit: Mlkit, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(2):
        save(photos / f"{i}.png", seed=i)
    (photos / "broken.png").write_bytes(b"no")
    options = ["--sigma", 20, "--mode", "tstep"]
    result = mlkit("denoise", photos, "-o", tmp_path / "out", *options, "--json")
    assert result.code == 3
    document = json.loads(result.out)
    assert list(document["failures"]) == [str(photos / "broken.png")]
    assert len(list((tmp_path / "out").iterdir())) == 2
    strict = mlkit("denoise", photos, "-o", tmp_path / "strict", *options, "--strict")
    assert strict.code == 3
    assert "broken.png is not a readable image" in strict.err
    again = mlkit("denoise", photos, "-o", tmp_path / "out", *options, "--skip-existing")
    assert again.code == 3
    assert "1 inputs failed" in again.err


def test_what_is_not_converged_exits_3_unless_accepted(
    mlkit: Mlkit, tmp_path: Path, noisy: Path
) -> None:
    options = ["--sigma", 20, "--iterations", 2, "--tol", 1e-8, "-o", tmp_path / "out.png"]
    result = mlkit("denoise", noisy, *options)
    assert result.code == 3
    assert "--best-effort" in result.err
    assert not (tmp_path / "out.png").exists()
    accepted = mlkit("denoise", noisy, *options, "--best-effort")
    assert accepted.code == 0
    assert "did not reach --tol" in accepted.out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--sigma", "0"], 2, "--sigma"),
        (["--sigma", "101"], 2, "--sigma"),
        (["--sigma", "many"], 2, "--sigma"),
        (["--mode", "tstep", "--certify"], 2, "--certify needs"),
        (["--method", "tv", "--mode", "tstep"], 2, "no --mode tstep"),
        (["-o", "out.xyz"], 2, "unknown image format"),
        (["--plot", "plot.xyz"], 2, "unknown image format"),
        (["--weights", "none.safetensors"], 4, "does not exist"),
        (["--sigmma", "5"], 2, "--sigmma"),
        (["--precision", "bf16"], 2, "fp32 only"),
    ],
)
def test_wrong_options(
    mlkit: Mlkit, tmp_path: Path, noisy: Path, options: list[str], code: int, said: str
) -> None:
    result = mlkit("denoise", noisy, *options)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err


def test_a_missing_file_and_an_existing_output(mlkit: Mlkit, tmp_path: Path, noisy: Path) -> None:
    missing = mlkit("denoise", tmp_path / "none.png", "-o", tmp_path / "x.png")
    assert missing.code == 3
    assert "does not exist" in missing.err
    save(tmp_path / "there.png")
    existing = mlkit("denoise", noisy, "-o", tmp_path / "there.png")
    assert existing.code == 3
    assert "--overwrite" in existing.err
    onto_itself = mlkit("denoise", noisy, "-o", noisy, "--overwrite")
    assert onto_itself.code == 2


def test_a_checkpoint_of_another_method(mlkit: Mlkit, tmp_path: Path, noisy: Path) -> None:
    import torch

    from mlkit.core.checkpoint import Metadata, save

    save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, Metadata("prune", "model"))
    result = mlkit("denoise", noisy, "--weights", tmp_path / "x.safetensors")
    assert result.code == 4
    assert "'prune'" in result.err


def test_broken_images_are_found_by_check(mlkit: Mlkit, tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png", sigma=15)
    (tmp_path / "photos" / "b.png").write_bytes(b"no")
    result = mlkit("check", "denoise", tmp_path / "photos", "--json")
    assert result.code == 3
    document = json.loads(result.out)
    assert list(document["failures"]) == [str(tmp_path / "photos" / "b.png")]
    assert document["metrics"]["noise"][str(tmp_path / "photos" / "a.png")] > 10


def test_the_demo_leaves_a_report(mlkit: Mlkit, tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "sample.png", sigma=0)
    monkeypatch.setattr("mlkit.tasks.denoise.handover.SAMPLE", tmp_path / "sample.png")
    result = mlkit("demo", "denoise", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "mlkit demo denoise" in page
    assert mlkit("demo", "denoise", "-o", tmp_path / "demo").code == 3


def test_export_says_why_not(mlkit: Mlkit, tmp_path: Path) -> None:
    from mlkit.tasks.denoise.checkpoint import EMBEDDED

    result = mlkit("export", EMBEDDED[5.0], "-o", tmp_path / "m.onnx")
    assert result.code == 2
    assert "cannot be exported" in result.err
