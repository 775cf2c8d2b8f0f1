from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from mlkit.core.arrays import array_bytes
from mlkit.tasks.denoise.reconstruction.phantom import shepp_logan

Mlkit = Callable[..., Any]


@pytest.fixture
def scan(mlkit: Mlkit, tmp_path: Path) -> list[Any]:
    """Simulate a CT scan; return the arguments that reconstruct it quickly."""
    out = tmp_path / "scan"
    made = mlkit("data", "sinogram", "phantom", "--size", "32", "--views", "24", "-o", out)
    assert made.code == 0, made.err
    assert "Next: mlkit reconstruct ct" in made.out
    return [out / "sinogram.npy", "--angles", out / "angles.txt", "--size", "32", "--tol", "1e-4"]


def test_ct_with_the_embedded_prior(mlkit: Mlkit, tmp_path: Path, scan: list[Any]) -> None:
    out = tmp_path / "image.npy"
    options = ["--reference", tmp_path / "scan" / "image.npy", "--certify"]
    options += ["--plot", tmp_path / "p.png"]
    result = mlkit("reconstruct", "ct", *scan, *options, "-o", out)
    assert result.code == 0, result.err
    for word in ("lambda", "proportional to the noise", "PSNR", "convex", "shown: black is 0"):
        assert word in result.out
    assert np.load(out).shape == (32, 32)
    assert (tmp_path / "p.png").exists()


def test_the_json_document(mlkit: Mlkit, tmp_path: Path, scan: list[Any]) -> None:
    out = tmp_path / "image.png"
    result = mlkit("reconstruct", "ct", *scan, "--method", "tv", "-o", out, "--json", "--quiet")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert result.err == ""
    assert document["outputs"] == {"image": str(out)}
    assert set(document["metrics"]) == {
        "method", "lambda", "rule", "noise", "intensity", "iterations", "converged", "change",
        "gradient_norm", "energy", "misfit", "expected_misfit", "shape", "seconds", "window",
    }  # fmt: skip


def test_mri(mlkit: Mlkit, tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    options = ["--size", "32", "--coils", "3", "--acceleration", "2"]
    made = mlkit("data", "kspace", "phantom", *options, "-o", scan)
    assert made.code == 0, made.err
    files = [scan / "kspace.npy", "--mask", scan / "mask.npy", "--coils", scan / "coils.npy"]
    out = tmp_path / "image.png"
    result = mlkit("reconstruct", "mri", *files, "--tol", "1e-3", "-o", out)
    assert result.code == 0, result.err
    assert out.exists()


def test_pictures_through_a_pipe(mlkit: Mlkit, tmp_path: Path) -> None:
    from mlkit.core.media import write_image

    write_image(tmp_path / "small.png", shepp_logan(24, 24)[0])
    source = (tmp_path / "small.png").read_bytes()
    options = ["--scale", "2", "--noise", "2", "--tol", "1e-3", "--method", "tv"]
    result = mlkit("reconstruct", "image", "-", *options, "-o", "-", stdin=source)
    assert result.code == 0, result.err
    assert result.raw.startswith(b"\x89PNG")


def test_a_matrix_and_data_from_standard_input(mlkit: Mlkit, tmp_path: Path) -> None:
    matrix = sparse.random(120, 64, 0.3, random_state=0, format="csr")
    sparse.save_npz(tmp_path / "A.npz", matrix)
    data = array_bytes(matrix @ shepp_logan(8, 8).numpy().ravel())
    options = ["-A", tmp_path / "A.npz", "--shape", "8x8", "--method", "tv", "--tol", "1e-3"]
    out = tmp_path / "image.npy"
    result = mlkit("reconstruct", "matrix", "-", *options, "-o", out, stdin=data)
    assert result.code == 0, result.err
    assert np.load(out).shape == (8, 8)


def test_a_run_that_did_not_converge_exits_with_3(
    mlkit: Mlkit, tmp_path: Path, scan: list[Any]
) -> None:
    out = tmp_path / "image.npy"
    stop = ["--iterations", "3", "--method", "tv", "-o", out]
    result = mlkit("reconstruct", "ct", *scan, *stop)
    assert result.code == 3
    assert "not converged after 3 iterations" in result.err
    assert "--best-effort" in result.err
    assert not out.exists()
    accepted = mlkit("reconstruct", "ct", *scan, *stop, "--best-effort")
    assert accepted.code == 0
    assert "not converged" in accepted.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lambda", "much"], "must be auto, discrepancy or a positive number"),
        (["--lambda", "-1"], "must be auto, discrepancy or a positive number"),
        (["--noise", "0"], "greater than 0"),
        (["--size", "big"], "must be a number of pixels"),
        (["--window", "1,0"], "LOW < HIGH"),
        (["--tol", "2"], "less than 1"),
        (["--geometry", "cone"], "cone"),
        (["--out", "image.jpg"], "must end in"),
        (["--ankles", "180"], "No such option"),
    ],
)
def test_wrong_command_lines_exit_with_2(
    mlkit: Mlkit, scan: list[Any], options: list[str], said: str
) -> None:
    result = mlkit("reconstruct", "ct", *scan, *options)
    assert result.code == 2, result.err
    assert said in result.err
    assert "Traceback" not in result.err


def test_bad_files_exit_with_3_and_are_named(mlkit: Mlkit, tmp_path: Path, scan: list[Any]) -> None:
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"\x93NUMPY but no more")
    for command in (
        ["ct", broken, "--angles", "180"],
        ["mri", broken],
        ["image", broken, "--scale", "2"],
        ["matrix", broken, "-A", broken, "--shape", "8x8"],
    ):
        result = mlkit("reconstruct", *command)
        assert result.code == 3, result.err
        assert "broken.npy" in result.err
        assert len(result.err.strip().splitlines()) <= 2


def test_weights_of_something_else_exit_with_4(mlkit: Mlkit, scan: list[Any]) -> None:
    weights = Path(__file__).parents[2] / "tasks" / "prune" / "weights"
    result = mlkit(
        "reconstruct", "ct", *scan, "--weights", weights / "fashion_resnet14.safetensors"
    )
    assert result.code == 4
    assert "prune" in result.err


def test_the_demo_leaves_a_report(mlkit: Mlkit, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("mlkit.tasks.denoise.reconstruction.handover.SIZE", "48")
    result = mlkit("demo", "reconstruct", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "mlkit demo reconstruct" in page
    assert mlkit("demo", "reconstruct", "-o", tmp_path / "demo").code == 3


def test_help_shows_examples(mlkit: Mlkit) -> None:
    for kind in ("ct", "mri", "image", "matrix"):
        result = mlkit("reconstruct", kind, "--help")
        assert result.code == 0
        assert f"mlkit reconstruct {kind}" in result.out
    assert mlkit("reconstruct", "tc").code == 2
