from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.core.errors import CheckpointError, DataError, UsageError
from mlkit.core.metrics import psnr
from mlkit.core.options import BatchOptions, RunOptions
from mlkit.core.pictures import Picture, read_picture, write_picture
from mlkit.core.progress import Silent
from mlkit.tasks.denoise import DenoiseConfig, denoise
from mlkit.tasks.denoise.checkpoint import embedded_prior, load_prior, save_prior
from mlkit.tasks.denoise.noise import estimate_sigma

from .helpers import noise, picture

RUN = RunOptions(device="cpu")


def colours(depth: int = 8, alpha: bool = False, size: tuple[int, int] = (40, 44)) -> Picture:
    planes = torch.cat([picture(*size, seed=i)[0] for i in range(3)])
    opacity = np.arange(planes[0].numel(), dtype=np.uint16 if depth == 16 else np.uint8)
    return Picture(
        (planes + noise(planes, 20)).clamp(0, 1).float(),
        depth,
        opacity.reshape(planes.shape[1:]) if alpha else None,
    )


def run(source: Path, out: Path, **options: Any) -> Any:
    return denoise(DenoiseConfig(inputs=(source,), out=out, **options), None, RUN)


@pytest.mark.parametrize("depth", [8, 16])
def test_depth_and_alpha_are_kept(tmp_path: Path, depth: int) -> None:
    write_picture(tmp_path / "in.png", colours(depth, alpha=True))
    result = run(tmp_path / "in.png", tmp_path / "out.png", sigma=20)
    noisy, clean = read_picture(tmp_path / "in.png"), read_picture(tmp_path / "out.png")
    assert clean.depth == depth
    np.testing.assert_array_equal(clean.alpha, noisy.alpha)
    truth = torch.cat([picture(40, 44, seed=i)[0] for i in range(3)])
    assert psnr(clean.planes, truth) > psnr(noisy.planes, truth) + 5
    record = result.metrics["images"][str(tmp_path / "in.png")]
    assert record["converged"]
    assert record["sigma"] == [20, 20, 20]


@pytest.mark.parametrize("options", [{"mode": "tstep"}, {"method": "tv"}, {"mode": "prox"}])
def test_every_way_removes_noise(noisy_file: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run(noisy_file, tmp_path / "out.png", sigma=20, **options)
    truth = torch.cat([picture(40, 44, seed=i)[0] for i in range(3)])
    before, after = (
        psnr(read_picture(p).planes, truth) for p in (noisy_file, tmp_path / "out.png")
    )
    assert after > before + 4


def test_the_noise_is_estimated(noisy_file: Path, tmp_path: Path) -> None:
    result = run(noisy_file, tmp_path / "out.png")
    record = result.metrics["images"][str(noisy_file)]
    assert record["sigma_estimated"]
    assert record["sigma"] == pytest.approx([20, 20, 20], rel=0.15)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 40.0])
def test_the_estimate_of_white_noise(sigma: float) -> None:
    clean = picture(200, 200)[0]
    (found,) = estimate_sigma(clean + noise(clean, sigma))
    assert 255 * found == pytest.approx(sigma, rel=0.05)


def test_planes_may_be_solved_one_by_one(
    noisy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(noisy_file, tmp_path / "together.png", sigma=20)
    monkeypatch.setattr("mlkit.tasks.denoise.denoiser.TOGETHER", 10)
    run(noisy_file, tmp_path / "apart.png", sigma=20)
    together, apart = (read_picture(tmp_path / f"{n}.png").planes for n in ("together", "apart"))
    assert float((together - apart).abs().max()) <= 1 / 255 + 1e-6


def test_strength_and_given_parameters(noisy_file: Path, tmp_path: Path) -> None:
    def record(**options: Any) -> dict[str, Any]:
        result = run(noisy_file, tmp_path / f"{len(list(tmp_path.iterdir()))}.png", **options)
        return result.metrics["images"][str(noisy_file)]

    plain, strong = record(sigma=20), record(sigma=20, strength=2)
    assert strong["lambda"] == pytest.approx(2 * plain["lambda"])
    given = record(sigma=20, lam=3.0, mu=4.0)
    assert (given["lambda"], given["mu"]) == (3.0, 4.0)


def test_a_run_without_noise_is_left_alone(tmp_path: Path) -> None:
    flat = Picture(torch.full((1, 30, 30), 0.5))
    write_picture(tmp_path / "flat.png", flat)
    progress = Silent()
    config = DenoiseConfig(inputs=(tmp_path / "flat.png",), out=tmp_path / "out.png")
    denoise(config, None, RUN, progress)
    assert "no noise found" in progress.warnings[0]
    np.testing.assert_array_equal(
        read_picture(tmp_path / "out.png").pixels(), read_picture(tmp_path / "flat.png").pixels()
    )


def test_what_did_not_converge_is_not_written(noisy_file: Path, tmp_path: Path) -> None:
    for options in ({}, {"method": "tv"}):
        short = {"iterations": 1, "tol": 1e-7, **options}
        with pytest.raises(DataError, match="did not reach --tol 1e-07") as caught:
            run(noisy_file, tmp_path / "out.png", sigma=20, **short)
        assert "--best-effort" in caught.value.hint
        assert not (tmp_path / "out.png").exists()
    result = run(noisy_file, tmp_path / "out.png", iterations=2, tol=1e-7, best_effort=True)
    assert not result.metrics["images"][str(noisy_file)]["converged"]
    assert any("did not reach" in note for note in result.notes)


def test_certificates_of_every_plane(noisy_file: Path, tmp_path: Path) -> None:
    result = run(noisy_file, tmp_path / "out.png", certify=True, tol=1e-5)
    (proof,) = result.metrics["images"][str(noisy_file)]["certificates"]
    assert proof["convex"]
    assert proof["monotone"]
    assert 0 < proof["distance_rms"] < 0.01
    for options in ({"mode": "tstep"}, {"method": "tv"}):
        with pytest.raises(UsageError, match="--certify needs"):
            run(noisy_file, tmp_path / "other.png", certify=True, **options)


def test_images_that_cannot_be_denoised(tmp_path: Path) -> None:
    write_picture(tmp_path / "tiny.png", colours(size=(3, 40)))
    with pytest.raises(DataError, match="40x3 pixels: too small"):
        run(tmp_path / "tiny.png", tmp_path / "out.png")
    write_picture(tmp_path / "small.png", colours(size=(12, 40)))
    with pytest.raises(DataError, match=r"40x12 pixels, smaller than the 13"):
        run(tmp_path / "small.png", tmp_path / "out.png", sigma=10)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="not a readable image"):
        run(tmp_path / "text.png", tmp_path / "out.png")
    write_picture(tmp_path / "deep.png", colours(16))
    with pytest.raises(DataError, match="16 bits"):
        run(tmp_path / "deep.png", tmp_path / "out.jpg", sigma=10)


@pytest.mark.parametrize("sigma", [0, -3, 101, float("nan")])
def test_noise_levels_out_of_range(sigma: float) -> None:
    with pytest.raises(UsageError, match="--sigma"):
        DenoiseConfig.create(inputs=("x.png",), sigma=sigma)


def test_folders_and_failures(noisy_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png"):
        write_picture(folder / name, colours())
    (folder / "c.png").write_bytes(b"broken")
    progress = Silent()
    config = DenoiseConfig(inputs=(folder,), out=tmp_path / "out", sigma=20, mode="tstep")
    result = denoise(config, None, RUN, progress)
    assert list(result.failures) == [str(folder / "c.png")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    with pytest.raises(DataError, match="exists already"):
        denoise(config, None, RUN, progress)
    again = denoise(config, BatchOptions(skip_existing=True, strict=False), RUN, Silent())
    assert list(again.metrics["images"]) == []


def test_the_strip_shows_noisy_clean_and_difference(noisy_file: Path, tmp_path: Path) -> None:
    result = run(noisy_file, tmp_path / "out.png", plot=tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (3 * 44, 40)
        pixels = np.asarray(strip)
    np.testing.assert_array_equal(pixels[:, :44], read_picture(noisy_file).pixels())
    np.testing.assert_array_equal(pixels[:, 44:88], read_picture(tmp_path / "out.png").pixels())
    assert result.outputs["plot"] == str(tmp_path / "strip.png")


# --- weights ---


def published(prior: Any) -> dict[str, Any]:
    """A state dict as the published code saves it."""
    name = "conv_layer.conv_layers.{}.parametrizations.weight.original"
    model = prior.model
    state = {name.format(i): weight.detach() for i, weight in enumerate(model.filters)}
    return {
        **state,
        "activation.coefficients_vect": model.coefficients.detach().flatten(),
        "lmbd": model.strength.detach(),
        "mu": model.scale.detach(),
        "L": model.lipschitz,
    }


def test_checkpoints_of_the_published_code(noisy_file: Path, tmp_path: Path) -> None:
    prior = embedded_prior(25)
    torch.save({"state_dict": published(prior), "epoch": 10}, tmp_path / "checkpoint_10.pth")
    found = load_prior(tmp_path / "checkpoint_10.pth")
    x = picture().float()
    torch.testing.assert_close(found.model.ridge().gradient(x), prior.model.ridge().gradient(x))
    torch.testing.assert_close(found.model.denoise(x, 3), prior.model.denoise(x, 3))
    weights = {"weights": tmp_path / "checkpoint_10.pth", "sigma": 20}
    with pytest.raises(UsageError, match="never tuned"):
        run(noisy_file, tmp_path / "a.png", **weights)
    with pytest.raises(UsageError, match="how many steps"):
        run(noisy_file, tmp_path / "a.png", mode="tstep", **weights)
    run(noisy_file, tmp_path / "a.png", lam=10, mu=5, **weights)
    run(noisy_file, tmp_path / "b.png", mode="tstep", unroll=2, **weights)
    save_prior(tmp_path / "ours.safetensors", found, {})
    again = load_prior(tmp_path / "ours.safetensors")
    torch.testing.assert_close(again.model.ridge().gradient(x), found.model.ridge().gradient(x))


def test_weights_of_something_else(noisy_file: Path, tmp_path: Path) -> None:
    state = published(embedded_prior(25))
    for wrong in ({"conv.weight": torch.zeros(3)}, {**state, "bias": torch.zeros(1)}, {}):
        torch.save(wrong, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="no prior of mlkit") as caught:
            load_prior(tmp_path / "w.pth")
        assert "activation.coefficients_vect" in caught.value.hint
    (tmp_path / "w.pth").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        run(noisy_file, tmp_path / "a.png", weights=tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        run(noisy_file, tmp_path / "a.png", weights=tmp_path / "w.safetensors")
