"""Pictures as they come: grey, alpha, 16 bit, odd sizes, any scale; and the embedded weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.core.errors import DataError, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.pictures import Picture, read_picture, write_picture
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.upscale import EvalConfig, UpscaleConfig, upscale
from mlkit.tasks.upscale.checkpoint import EMBEDDED, WEIGHTS, embedded, save_start
from mlkit.tasks.upscale.choice import choose, degradation_of, describe
from mlkit.tasks.upscale.degradation import Degradation, bicubic
from mlkit.tasks.upscale.enlarger import Enlarger, Request
from mlkit.tasks.upscale.kernels import gaussian
from mlkit.tasks.upscale.luma import scores

from .helpers import begin, picture

RUN = RunOptions(device="cpu")
QUICK = {"kernel": "bicubic", "steps": 1}


def large(folder: Path, small: Picture, **settings: object) -> Picture:
    write_picture(folder / "small.png", small)
    config = UpscaleConfig(
        inputs=(folder / "small.png",), out=folder / "large.png", **{**QUICK, **settings}
    )
    upscale(config, run_options=RUN)
    return read_picture(folder / "large.png")


def test_grey_alpha_and_16_bit_stay(tmp_path: Path) -> None:
    grey = picture(32, 36)[:1]
    alpha = np.zeros((32, 36), np.uint16)
    alpha[:, 18:] = 65535
    found = large(tmp_path, Picture(grey, 16, alpha, icc=b"profile"))
    assert (found.planes.shape, found.depth) == ((1, 64, 72), 16)
    assert found.icc == b"profile"
    assert found.alpha is not None
    assert found.alpha.shape == (64, 72)
    assert found.alpha[:, :30].max() == 0
    assert found.alpha[:, 42:].min() == 65535
    assert len(np.unique((found.planes * 65535).round().numpy())) > 256


@pytest.mark.parametrize("scale", [2, 2.5, 3, 5])
def test_the_size_is_scale_times_that_of_the_input(tmp_path: Path, scale: float) -> None:
    found = large(tmp_path, Picture(picture(33, 47)), scale=scale, steps=0, back_project=0)
    assert found.planes.shape == (3, round(scale * 33), round(scale * 47))


def test_tiles_and_repetition_change_nothing(tmp_path: Path) -> None:
    small = Picture(picture(50, 40))
    first = large(tmp_path, small)
    (tmp_path / "large.png").unlink()
    again = large(tmp_path, small)
    assert torch.equal(first.planes, again.planes)
    (tmp_path / "large.png").unlink()
    tiled = large(tmp_path, small, tile=32)
    # Convolutions of another shape round in another order: a value between two levels may turn.
    turned = (255 * (first.planes - tiled.planes)).round().abs()
    assert float(turned.max()) <= 1
    assert float(turned.mean()) < 1e-3


def test_a_constant_image_stays_constant(tmp_path: Path) -> None:
    found = large(tmp_path, Picture(torch.full((3, 40, 40), 0.5)))
    inside = found.planes[:, 16:-16, 16:-16]
    assert float(inside.max() - inside.min()) < 3 / 255


def enlarger(**settings: object) -> Enlarger:
    return Enlarger(EvalConfig(data=Path(), **settings), start(RUN))


def test_the_ensemble_is_even_under_turns() -> None:
    low, tool = picture(32, 32)[None], enlarger()
    request = Request(steps=0, ensemble=True)
    image = tool.enlarge(low, bicubic(2), request).image
    flipped = tool.enlarge(low.flip(-1), bicubic(2), request).image
    torch.testing.assert_close(flipped, image.flip(-1), atol=1e-5, rtol=0)
    for blur in (
        Degradation(gaussian(2, 2, 0).float(), 2, "direct"),
        Degradation(gaussian(3, 1, 0).float(), 2, "bicubic"),
    ):
        with pytest.raises(UsageError, match="--ensemble needs"):
            tool.enlarge(low, blur, request)


def test_no_back_projection_where_the_kernel_or_the_pixels_cannot_be_trusted() -> None:
    low, tool = picture(32, 32)[None], enlarger()
    for change, rounds in (({}, 10), ({"known": False}, 0), ({"noise": 5.0}, 0)):
        request = replace(Request(steps=0), **change)
        assert tool.enlarge(low, bicubic(2), request).record["back_projections"] == rounds
    asked = enlarger(back_project=3).enlarge(low, bicubic(2), Request(steps=0, known=False))
    assert asked.record["back_projections"] == 3


def test_an_image_does_not_depend_on_those_before(tmp_path: Path) -> None:
    tool, blur = enlarger(), Degradation(gaussian(2, 2, 0).float(), 2, "direct")
    low = picture(32, 40, seed=1)[None]
    alone = tool.enlarge(low, blur, Request(steps=3)).image
    tool.enlarge(picture(32, 40, seed=2)[None], blur, Request(steps=3))
    assert torch.equal(tool.enlarge(low, blur, Request(steps=3)).image, alone)


def test_a_start_that_adaptation_makes_worse_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_start(path, begin(scales=(2,)), {})
    write_picture(tmp_path / "a.png", Picture(picture(40, 40)))
    config = UpscaleConfig(
        inputs=(tmp_path / "a.png",),
        out=tmp_path / "b.png",
        weights=path,
        optimizer="sgd",
        rate=1.0,
        **QUICK,
    )
    progress = Silent()
    upscale(config, run_options=RUN, progress=progress)
    assert any("did not lower the loss" in warning for warning in progress.warnings)


def test_kernels_are_chosen_as_the_user_says(tmp_path: Path) -> None:
    low, quiet = picture(40, 40)[None], Silent()
    plain = degradation_of(choose("bicubic", "direct", quiet), low, 2, {}, "x")
    assert describe(plain)["sampling"] == "bicubic"
    assert describe(plain)["variances"] == [0, 0]
    turned = degradation_of(choose("gaussian:4,1,30", "direct", quiet), low, 2, {}, "x")
    assert describe(turned)["degrees"] == pytest.approx(30, abs=0.5)
    np.save(tmp_path / "even.npy", np.ones((2, 2)))
    choose(str(tmp_path / "even.npy"), "direct", quiet)
    assert "half a pixel off" in quiet.warnings[0]
    unknown = choose("estimate", "bicubic", quiet)
    assert not unknown.known
    with pytest.raises(UsageError, match="no estimator"):
        degradation_of(unknown, low, 5, {}, "x")
    with pytest.raises(DataError, match="too small to estimate"):
        degradation_of(unknown, low[..., :20], 2, {}, "x")


def test_the_embedded_weights() -> None:
    sizes = [(WEIGHTS / f"{name}.safetensors").stat().st_size for name in EMBEDDED]
    assert sum(sizes) < 1_500_000
    assert [embedded(name).objective for name in EMBEDDED] == ["meta", "joint", "bicubic"]
    assert set(embedded("mzsr").estimators) == {
        f"{sampling}.{scale}" for sampling in ("direct", "bicubic") for scale in (2, 3, 4)
    }


def test_ours_beats_bicubic_and_back_projection_on_the_sample() -> None:
    truth = read_picture(WEIGHTS / "sample.png").planes[None]
    blur = Degradation(gaussian(2, 2, 0).float(), 2, "direct")
    low = (blur(truth).clamp(0, 1) * 255).round() / 255
    tool = enlarger()
    found = {
        method: scores(tool.enlarge(low, blur, Request(method)).image, truth, 2)[0]  # type: ignore[arg-type]
        for method in ("bicubic", "ibp", "mzsr")
    }
    assert found["bicubic"] + 3 < found["ibp"] < found["mzsr"]
