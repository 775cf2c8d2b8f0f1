"""Experiments of `reconstruct`: CT and MRI of real slices, all parameters tuned on other slices.

`ct`: head slices, values clip((HU + 1024) / 2500, 0, 1), 256 x 256, 120 views of a parallel
beam, 363 bins of one pixel, Gaussian noise of 0.5 % of the sinogram's maximum. `mri`: T1
slices, random columns, 4-fold with 8 % in the middle, noise 0.002 on real and imaginary parts;
one coil, and eight simulated ones. `image`: photographs, blurred by a Gaussian of 1.6 pixels,
noise 0.01. Two slices choose lambda and mu of the learned prior and the weight of total
variation, per instrument (`tune`); the other four are reported, each with `seeds` noises and
masks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.core.metrics import psnr, ssim
from mlkit.core.operators.backprojection import filtered_backprojection
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.operators.image import Blur, Crop
from mlkit.core.operators.tomography import Beam, Tomography
from mlkit.core.runtime import stream
from mlkit.tasks.denoise.checkpoint import ALL_ROUND, embedded_prior, load_prior
from mlkit.tasks.denoise.model import Ridge
from mlkit.tasks.denoise.reconstruction.config import SolveOptions
from mlkit.tasks.denoise.reconstruction.problem import Problem
from mlkit.tasks.denoise.reconstruction.simulate import coil_maps, random_columns
from mlkit.tasks.denoise.reconstruction.solve import Reconstructor

from .__main__ import spread

TUNING = (0, 4)  # slices that choose parameters
ITERATIONS = 1500
# Tried: strength over what the noise alone suggests, and the scale inside of the learned prior.
RATIOS = (1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.06, 0.03, 0.015)
MUS = (3.0, 10.0, 20.0, 40.0)
# What `reconstruct-tune` chose on the tuning slices; several coils take what one coil takes.
CHOSEN: dict[str, dict[str, tuple[float, float | None]]] = {
    "ct": {"TV": (0.7, None), "CRR": (0.35, 10.0)},
    "mri": {"TV": (0.015, None), "CRR": (0.015, 3.0)},
    "mri-coils": {"TV": (0.015, None), "CRR": (0.015, 3.0)},
    "image": {"TV": (0.35, None), "CRR": (0.25, 10.0)},
}
TOLERANCES = {"ct": 1e-4, "mri": 3e-5, "mri-coils": 3e-5, "image": 1e-4}
BLUR, FRAME = 1.6, 8  # pixels; FRAME: what the blurred picture does not show of the scene


@dataclass
class Case:
    """A problem, its truth, classical images by name, and a frame that is not scored."""

    truth: Tensor
    problem: Problem
    classical: dict[str, Tensor] = field(default_factory=dict)
    frame: int = 0

    def score(self, metric: Callable[[Tensor, Tensor], float], image: Tensor) -> float:
        """Compare an image with the truth."""
        return metric(self._inner(image), self._inner(self.truth))

    def _inner(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        return image[..., self.frame : height - self.frame, self.frame : width - self.frame]


Maker = Callable[[Tensor, int], Case]


def tune(data: Path, seeds: int) -> dict[str, Any]:
    """Choose lambda and mu of the prior, and the weight of TV, on the tuning slices."""
    ridge, found = _ridge(), {}
    for kind in CHOSEN:
        images, make = _instrument(kind, data)
        cases = [make(images[i], 1000 + seed) for i in TUNING for seed in range(seeds)]
        found[kind] = {
            "TV": _best(cases, kind, "tv", None, (None,)),
            "CRR": _best(cases, kind, "crr", ridge, MUS),
        }
    return found


def ct(data: Path, seeds: int) -> dict[str, Any]:
    """Sparse-view CT of four head slices."""
    return _table("ct", data, seeds)


def mri(data: Path, seeds: int) -> dict[str, Any]:
    """Four-fold undersampled MRI of four brain slices, one coil."""
    return _table("mri", data, seeds)


def mri_coils(data: Path, seeds: int) -> dict[str, Any]:
    """The same with eight simulated coils."""
    return _table("mri-coils", data, seeds)


def image(data: Path, seeds: int) -> dict[str, Any]:
    """Blurred photographs of BSD68; those that chose the parameters are of Set12."""
    return _table("image", data, seeds)


def _instrument(kind: str, data: Path) -> tuple[list[Tensor], Maker]:
    """Return the slices, and what measures one of them with a seed."""
    folder = data / "images" / "medical"
    if kind == "ct":
        images = [_pixels(path) / 2500 for path in _slices(folder / "ct_head")]
        return [torch.from_numpy(np.clip(x, 0, 1))[None, None] for x in images], _ct_maker()
    if kind == "image":
        known, new = (_slices(data / "images" / f"{name}_gray") for name in ("Set12", "BSD68"))
        paths = [known[0], *new[::23], known[6], new[34]]  # those at `TUNING` are of Set12
        scenes = [_pixels(path)[:256, :256] / 255 for path in paths]
        return [torch.from_numpy(x)[None, None] for x in scenes], _blurred
    brains = [_pixels(path) for path in _slices(folder / "mri_t1_colin27")]
    count = 8 if kind == "mri-coils" else 1
    images = [torch.from_numpy(x / x.max())[None, None] for x in brains]
    return images, lambda x, seed: _mri_case(x, seed, count)


def _slices(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image).astype(np.float32)


def _ct_maker() -> Maker:
    beam = Beam(np.arange(120) * math.pi / 120, 363)
    operator = Tomography(beam, (256, 256))
    norm = operator.norm()

    def make(truth: Tensor, seed: int) -> Case:
        clean = operator(truth)
        noise = 0.005 * float(clean.max())
        data = clean + noise * torch.randn(clean.shape, generator=stream(seed, 0))
        classical = {
            f"FBP {window}": filtered_backprojection(data, beam, (256, 256), window=window)
            for window in ("ramp", "hann")
        }
        start = classical["FBP hann"]
        problem = Problem(operator, data, start, data.numel(), noise, True, 1.0, norm)
        return Case(truth, problem, classical)

    return make


def _mri_case(truth: Tensor, seed: int, count: int) -> Case:
    height, width = truth.shape[2:]
    own = seed + int(1e6 * float(truth.mean()))  # masks differ a lot: each slice has its own
    mask = random_columns(width, 4, 0.08, own)
    coils = coil_maps(count, (height, width)) if count > 1 else None
    operator = MaskedFourier(mask, (height, width), coils)
    clean = operator(truth)
    parts = torch.randn(*clean.shape, 2, generator=stream(seed, 1))
    data = clean + 0.002 * torch.view_as_complex(parts) * mask
    start = operator.zero_filled(data)
    numbers = 2 * count * height * int(mask.sum())
    problem = Problem(operator, data, start, numbers, 0.002, True, 1.0, operator.norm())
    return Case(truth, problem, {"zero-filled": start})


def _blurred(truth: Tensor, seed: int) -> Case:
    places = torch.arange(-6.0, 7.0)
    line = torch.exp(-0.5 * (places / BLUR) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    shape = (truth.shape[2], truth.shape[3])
    operator = Crop(shape, FRAME) @ Blur(kernel, shape)
    clean = operator(truth)
    data = clean + 0.01 * torch.randn(clean.shape, generator=stream(seed, 2))
    start = torch.nn.functional.pad(data, (FRAME,) * 4, mode="reflect")
    problem = Problem(operator, data, start, data.numel(), 0.01, True, 1.0, operator.norm())
    return Case(truth, problem, {"blurred": start}, FRAME)


def _table(kind: str, data: Path, seeds: int) -> dict[str, Any]:
    """Score all methods on the slices that chose nothing."""
    images, make = _instrument(kind, data)
    ridge = _ridge()
    scores: dict[str, dict[str, list[float]]] = {}
    per_slice: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for i in (i for i in range(len(images)) if i not in TUNING):
            case = make(images[i], seed)
            for name, image in _reconstructions(kind, case, ridge).items():
                row = scores.setdefault(name, {"psnr": [], "ssim": []})
                row["psnr"].append(case.score(psnr, image))
                row["ssim"].append(case.score(ssim, image))
                per_slice.setdefault(str(i), {}).setdefault(name, []).append(row["psnr"][-1])
                _say(f"{kind} seed {seed} slice {i} {name}: {row['psnr'][-1]:.2f} dB")
    return {
        "chosen": CHOSEN[kind],
        "slices": {i: {m: spread(v) for m, v in row.items()} for i, row in per_slice.items()},
        "mean": {m: {k: spread(v) for k, v in row.items()} for m, row in scores.items()},
    }


def _reconstructions(kind: str, case: Case, ridge: Ridge) -> dict[str, Tensor]:
    found = dict(case.classical)
    for name, (ratio, mu) in CHOSEN[kind].items():
        begin = time.monotonic()
        prior = None if name == "TV" else ridge
        found[name], count = _solve(case, kind, prior, ratio, mu)
        _say(f"{name}: {count} iterations, {time.monotonic() - begin:.0f} s")
    return found


def _best(
    cases: Sequence[Case],
    kind: str,
    method: str,
    ridge: Ridge | None,
    mus: Sequence[float | None],
) -> tuple[float, float | None]:
    """Return the ratio and the mu of the highest mean PSNR; solves start from stronger ones."""
    scores: dict[tuple[float, float | None], float] = {}
    for mu in mus:
        images = [case.problem.start for case in cases]
        for ratio in RATIOS:
            total = 0.0
            for i, case in enumerate(cases):
                images[i], _ = _solve(case, kind, ridge, ratio, mu, images[i])
                total += case.score(psnr, images[i])
            scores[ratio, mu] = total / len(cases)
            _say(f"{kind} tuning {method} mu {mu} ratio {ratio}: {scores[ratio, mu]:.2f} dB")
            if scores[ratio, mu] < max(s for (_, m), s in scores.items() if m == mu) - 0.15:
                break  # past the peak
    return max(scores, key=lambda pair: scores[pair])


@torch.no_grad()
def _solve(
    case: Case,
    kind: str,
    ridge: Ridge | None,
    ratio: float,
    mu: float | None,
    start: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Return the image of the prior, or of total variation without one, and the iterations."""
    options = SolveOptions(mu=mu, tol=TOLERANCES[kind], iterations=ITERATIONS)
    tool = Reconstructor(kind.partition("-")[0], ridge, options)
    strength = ratio * tool.noise_strength(case.problem)
    if start is None:
        start = tool.warm_up(case.problem, strength, case.problem.start)
    solution = tool.solve(case.problem, strength, start)
    return solution.x, solution.iterations


def _ridge() -> Ridge:
    """Return the embedded prior, or the one in the file that MLKIT_PRIOR names."""
    own = os.environ.get("MLKIT_PRIOR")
    with torch.no_grad():
        prior = load_prior(Path(own)) if own else embedded_prior(ALL_ROUND)
        return prior.model.ridge()


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
