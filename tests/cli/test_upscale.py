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
GAUSSIAN = ("--kernel", "gaussian:2", "--sampling", "direct")


def pixels(height: int = 36, width: int = 44, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [120 + 60 * np.sin(x / (5 + c) + seed) + 50 * (x > y + 3 * c) for c in range(3)]
    return np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8)


def save(path: Path, height: int = 36, width: int = 44, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, seed)).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "photo.png")


def test_smoke_of_every_verb(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    out, strip = tmp_path / "big.png", tmp_path / "strip.png"
    result = mlkit("upscale", photo, "-o", out, "--plot", strip)
    assert result.code == 0, result.err
    assert "estimated" in result.out
    with Image.open(out) as image:
        assert (image.size, image.mode) == ((88, 72), "RGB")
    assert strip.exists()
    sharp = tmp_path / "sharp"
    for i in range(4):
        save(sharp / f"{i}.png", 72, 64, seed=i)
    small = ["--width", 4, "--depth", 3, "--patch", 24, "--support", 1, "--query", 1]
    short = ["--inner-steps", 1, "--pretrain", 1, "--steps", 1, "--batch-size", 1]
    trained = mlkit("train", "upscale", sharp, "-o", tmp_path / "run", *small, *short)
    assert trained.code == 0, trained.err
    weights = tmp_path / "run" / "best.safetensors"
    assert "upscale" in mlkit("info", weights).out
    options = ["-k", "direct:gaussian:2", "--steps", 1, "--limit", 1, "--weights", weights]
    scored = mlkit("eval", "upscale", sharp, *options, "--json")  # a table may break its names
    assert scored.code == 0, scored.err
    for name in ("bicubic", "ibp", "pretrained 0", "joint equal", "zssr equal", "mzsr 1"):
        assert name in scored.out
    checked = mlkit("check", "upscale", sharp, "--patch", 24)
    assert checked.code == 0, checked.err
    assert "4, 0 unusable" in checked.out


def test_interpolation_needs_no_blur_so_small_pictures_pass(mlkit: Mlkit, tmp_path: Path) -> None:
    save(tmp_path / "tiny.png", 12, 10)
    command = ["upscale", tmp_path / "tiny.png", "-o", tmp_path / "big.png", "--method"]
    refused = mlkit(*command, "ibp")
    assert refused.code == 3
    assert "too small to estimate its blur" in refused.err
    done = mlkit(*command, "bicubic")
    assert done.code == 0, done.err
    assert "estimated" not in done.out


def test_the_json_document(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    out = tmp_path / "big.png"
    result = mlkit("upscale", photo, "-o", out, *GAUSSIAN, "--json", "-q")
    assert result.code == 0, result.out
    assert result.err == ""
    document = json.loads(result.out)
    assert document["outputs"] == {"image": str(out)}
    record = document["metrics"]["images"][str(photo)]
    assert record["size"] == [88, 72]
    (stage,) = record["stages"]
    assert set(stage) == {
        "scale",
        "sampling",
        "variances",
        "degrees",
        "steps",
        "best_step",
        "loss_before",
        "loss_after",
        "adaptation_seconds",
        "back_projections",
        "seconds",
    }
    assert stage["variances"] == pytest.approx([2, 2], abs=0.01)
    assert stage["back_projections"] == 10


def test_eval_knows_the_papers_four_blurs(mlkit: Mlkit, tmp_path: Path) -> None:
    save(tmp_path / "sharp" / "a.png", 72, 64)
    methods = ["--method", "bicubic", "--method", "mzsr", "--steps", 0, "--steps", 1]
    result = mlkit("eval", "upscale", tmp_path / "sharp", *methods, "--kernels", "paper", "--json")
    assert result.code == 0, result.out
    scores = json.loads(result.out)["metrics"]
    assert set(scores) == {
        "direct:gaussian:0.2",
        "direct:gaussian:2.0",
        "direct:gaussian:4,1,45",
        "bicubic:gaussian:1.3",
    }
    for found in scores.values():
        assert set(found) == {"bicubic", "mzsr 0", "mzsr 1"}
        assert found["mzsr 1"]["psnr"] > found["bicubic"]["psnr"]


def test_small_images_of_ones_own(mlkit: Mlkit, tmp_path: Path) -> None:
    save(tmp_path / "sharp" / "a.png", 72, 64)
    kernel = np.zeros((3, 3))
    kernel[1, 1] = 1
    np.save(tmp_path / "k.npy", kernel)
    Image.fromarray(pixels(72, 64)[::2, ::2]).save(save(tmp_path / "low" / "a.png"))
    blur = f"direct:{tmp_path / 'k.npy'}"
    plain = ["--method", "ibp", "--json", "-k", blur]
    made = mlkit("eval", "upscale", tmp_path / "sharp", *plain)
    given = mlkit("eval", "upscale", tmp_path / "sharp", *plain, "--lr-images", tmp_path / "low")
    found = [json.loads(r.out)["metrics"][blur]["ibp"]["psnr"] for r in (made, given)]
    assert found[0] == pytest.approx(found[1])
    save(tmp_path / "low" / "a.png", 30, 40)
    wrong = mlkit("eval", "upscale", tmp_path / "sharp", *plain, "--lr-images", tmp_path / "low")
    assert wrong.code == 3
    assert "check --scale" in wrong.out


def test_a_pipe(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    result = mlkit("upscale", "-", "-o", "-", "--steps", 0, stdin=photo.read_bytes())
    assert result.code == 0, result.err
    with Image.open(io.BytesIO(result.raw)) as image:
        assert image.size == (88, 72)
    Image.fromarray(pixels()).save(tmp_path / "photo.jpg")
    lossless = mlkit(
        "upscale", "-", "-o", "-", "--steps", 0, stdin=(tmp_path / "photo.jpg").read_bytes()
    )
    with Image.open(io.BytesIO(lossless.raw)) as image:
        assert image.format == "PNG"
    assert mlkit("upscale", "-", "-o", "-", "--json", stdin=b"").code == 2
    broken = mlkit("upscale", "-", "-o", "-", stdin=b"nothing")
    assert broken.code == 3
    assert "standard input is not a readable image" in broken.err


def test_folders_list_their_failures_and_exit_3(mlkit: Mlkit, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save(photos / "a.jpg")
    save(photos / "b.png", seed=1)
    (photos / "broken.png").write_bytes(b"no")
    save(photos / "tiny.png", 12, 12)
    frames = [Image.fromarray(pixels(seed=i)) for i in range(2)]
    frames[0].save(photos / "moving.webp", save_all=True, append_images=frames[1:])
    options = [*GAUSSIAN, "--steps", 1]
    result = mlkit("upscale", photos, "-o", tmp_path / "out", *options, "--json")
    assert result.code == 3
    failures = json.loads(result.out)["failures"]
    said = {Path(name).name: reason for name, reason in failures.items()}
    assert set(said) == {"broken.png", "tiny.png", "moving.webp"}
    assert "too small to learn from" in said["tiny.png"]
    assert "animated" in said["moving.webp"]
    # A result never becomes a JPEG unasked.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    again = mlkit("upscale", photos, "-o", tmp_path / "out", *options, "--skip-existing")
    assert again.code == 3
    assert "3 inputs failed" in again.err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--scale", "1"], 2, "--scale"),
        (["--scale", "many"], 2, "--scale"),
        (["--steps", "-1"], 2, "--steps"),
        (["--kernel", "gausian:2"], 2, "gausian:2: unknown"),
        (["--kernel", "gaussian:-2"], 2, "variances lie in"),
        (["--kernel", "none.npy"], 3, "does not exist"),
        (["--kernel", "gaussian:9"], 3, "larger than the image reduced"),
        (["--ensemble", *GAUSSIAN], 2, "--ensemble needs"),
        (["--method", "esrgan"], 2, "--method"),
        (["-o", "out.xyz"], 2, "unknown image format"),
        (["--plot", "plot.xyz"], 2, "unknown image format"),
        (["--weights", "none.safetensors"], 4, "does not exist"),
        (["--stepps", "5"], 2, "--stepps"),
        (["--tile", "8"], 2, "--tile"),
    ],
)
def test_wrong_options(mlkit: Mlkit, photo: Path, options: list[str], code: int, said: str) -> None:
    result = mlkit("upscale", photo, *options)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-k", "gaussian:2"], "not SAMPLING:KERNEL"),
        (["-k", "direct:estimate"], "not SAMPLING:KERNEL"),
        (["--lr-images", "low"], "needs one --kernels"),
        (["--method", "esrgan"], "--method"),
        (["--steps", "-1"], "--steps"),
    ],
)
def test_wrong_options_of_eval(
    mlkit: Mlkit, tmp_path: Path, photo: Path, options: list[str], said: str
) -> None:
    result = mlkit("eval", "upscale", tmp_path, *options)
    assert result.code == 2, result.err
    assert said in result.err


def test_weights_for_another_scale(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    from mlkit.tasks.upscale.checkpoint import Start, save_start
    from mlkit.tasks.upscale.model import Network

    save_start(tmp_path / "x4.safetensors", Start(Network(4, 3), scales=(4,)), {})
    result = mlkit("upscale", photo, "--weights", tmp_path / "x4.safetensors")
    assert result.code == 2
    assert "trained for x4" in result.err


def test_a_missing_file_and_an_existing_output(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    missing = mlkit("upscale", tmp_path / "none.png", "-o", tmp_path / "x.png")
    assert missing.code == 3
    assert "does not exist" in missing.err
    save(tmp_path / "there.png")
    existing = mlkit("upscale", photo, "-o", tmp_path / "there.png")
    assert existing.code == 3
    assert "--overwrite" in existing.err


def test_a_checkpoint_of_another_method(mlkit: Mlkit, tmp_path: Path, photo: Path) -> None:
    import torch

    from mlkit.core.checkpoint import Metadata, save

    save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, Metadata("prune", "model"))
    result = mlkit("upscale", photo, "--weights", tmp_path / "x.safetensors")
    assert result.code == 4
    assert "'prune'" in result.err


def test_the_demo_leaves_a_report(mlkit: Mlkit, tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "sample.png", 72, 80)
    monkeypatch.setattr("mlkit.tasks.upscale.handover.SAMPLE", tmp_path / "sample.png")
    result = mlkit("demo", "upscale", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "mlkit demo upscale" in page
    assert mlkit("demo", "upscale", "-o", tmp_path / "demo").code == 3


def test_export(mlkit: Mlkit, tmp_path: Path) -> None:
    from mlkit.tasks.upscale.checkpoint import Start, save_start
    from mlkit.tasks.upscale.model import Network

    save_start(tmp_path / "m.safetensors", Start(Network(4, 3)), {})
    result = mlkit("export", tmp_path / "m.safetensors", "-o", tmp_path / "m.pt2")
    assert result.code == 0, result.err
    assert (tmp_path / "m.pt2").exists()
