"""Scoring: sharp images made small with known blurs, enlarged by every method, compared on Y."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.media import find_images
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, memory_errors, start
from .adaptation import clock
from .choice import Choice, check_size, choose, degradation_of
from .config import PAPER, EvalConfig
from .data import read_colour
from .degradation import Degradation, crop_to_multiple
from .enlarger import Enlarger, Request
from .luma import scores

# The conditions of the paper's tables; the anisotropic kernel is not printed there, this is ours.
PAPER_KERNELS = (
    "direct:gaussian:0.2",
    "direct:gaussian:2.0",
    "direct:gaussian:4,1,45",
    "bicubic:gaussian:1.3",
)
EQUAL = "equal seconds"
MANY = 100_000  # steps that no equal time allows
_LEAST = 11 + 2  # pixels beside the border that SSIM needs


@dataclass(frozen=True)
class Score:
    """Of one method on one image: PSNR in dB and SSIM on Y, seconds, those of adaptation alone."""

    psnr: float
    ssim: float
    seconds: float
    adaptation: float


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score the methods on every image and blur, the baselines beside ours.

    The small images are rounded to 8 bit, as files are. "Equal seconds" gives a baseline the time
    for adaptation that ours took on the same image with the most steps. Raises `UsageError` for
    blurs it does not know and `DataError` for unusable images.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    paths = find_images(config.data)[: config.limit or None]
    tool = Enlarger(config, runtime)
    blurs = {text: _choice(text, progress) for text in _expand(config.kernels)}
    told = _assumed(config, blurs, progress)
    found: dict[str, dict[str, list[Score]]] = {name: {} for name in blurs}
    with progress.task("scoring", len(paths) * len(blurs)) as task, _memory():
        for name, choice in blurs.items():
            for path in paths:
                truth, low = _images(config, path, choice, runtime)
                assumed = degradation_of(
                    told[name], low, config.scale, tool.start("mzsr").estimators, str(path)
                )
                check_size(low, config.scale, str(path))
                for method, score in _methods(config, tool, low, truth, assumed, told[name].known):
                    found[name].setdefault(method, []).append(score)
                task.advance(1, f"{path.name} {name}")
    return _result(config, len(paths), found)


def _memory() -> Any:
    return memory_errors("pass a smaller --tile, or smaller images")


def _expand(kernels: Sequence[str]) -> list[str]:
    """Replace "paper" by its four conditions."""
    every = [PAPER_KERNELS if kernel == PAPER else (kernel,) for kernel in kernels]
    return list(dict.fromkeys(name for names in every for name in names))


def _choice(text: str, progress: Progress) -> Choice:
    """Read "SAMPLING:KERNEL"; plain "bicubic" is reduction without a blur."""
    if text == "bicubic":
        return Choice("bicubic", plain=True)
    sampling, _, kernel = text.partition(":")
    if sampling not in ("direct", "bicubic") or not kernel or kernel == "estimate":
        raise UsageError(
            f"--kernels {text}: not SAMPLING:KERNEL",
            "such as direct:gaussian:2.0, bicubic:kernel.mat, bicubic, or paper",
        )
    return choose(kernel, "direct" if sampling == "direct" else "bicubic", progress)


def _assumed(config: EvalConfig, blurs: dict[str, Choice], progress: Progress) -> dict[str, Choice]:
    """Return what the methods are told of each blur: the truth, or --assume."""
    if config.assume is None:
        return blurs
    return {
        name: choose(config.assume, choice.sampling, progress) for name, choice in blurs.items()
    }


def _images(
    config: EvalConfig, path: Path, choice: Choice, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Return the sharp image (1, 3, s H, s W) and the small one, both in [0, 1]."""
    truth = read_colour(path)[None].to(runtime.device) / 255
    if config.low is not None:
        low = read_colour(config.low / path.name)[None].to(runtime.device) / 255
        height, width = (config.scale * n for n in low.shape[-2:])
        rest = (truth.shape[-2] - height, truth.shape[-1] - width)
        if not all(0 <= n < config.scale for n in rest):
            raise DataError(
                f"{path} has {truth.shape[-1]}x{truth.shape[-2]} pixels, "
                f"{config.low / path.name} times {config.scale} {width}x{height}",
                "check --scale and --lr-images",
            )
        return truth[..., :height, :width], low
    truth = crop_to_multiple(truth, config.scale)
    if min(truth.shape[-2:]) < 2 * config.scale + _LEAST:
        raise DataError(f"{path} is too small to be scored at scale {config.scale}")
    degradation = degradation_of(choice, truth, config.scale, {}, str(path))
    return truth, (degradation(truth).clamp(0, 1) * 255).round() / 255


def _methods(
    config: EvalConfig,
    tool: Enlarger,
    low: Tensor,
    truth: Tensor,
    degradation: Degradation,
    known: bool,
) -> Iterator[tuple[str, Score]]:
    """Yield the name and score of every method and number of steps."""

    def run(request: Request) -> Score:
        begin = clock(low.device)
        large = tool.enlarge(low, degradation, request)
        seconds = clock(low.device) - begin
        psnr, ssim = scores(large.image, truth, config.scale)
        return Score(psnr, ssim, seconds, large.record.get("adaptation_seconds", 0.0))

    ours = {
        steps: run(Request("mzsr", steps, known))
        for steps in sorted(config.steps)
        if "mzsr" in config.methods
    }
    budget = ours[max(ours)].adaptation if ours and max(ours) else 0.0
    for method in config.methods:
        if method in ("bicubic", "ibp"):
            yield method, run(Request(method, known=known))
        elif method in ("joint", "pretrained"):
            yield f"{method} 0", run(Request(method, 0, known))
            if budget > 0:
                yield f"{method} {EQUAL}", run(Request(method, MANY, known, seconds=budget))
        elif method == "zssr":
            if budget > 0:
                yield f"{method} {EQUAL}", run(Request(method, MANY, known, seconds=budget))
            if config.zssr_steps:
                yield (
                    f"{method} {config.zssr_steps}",
                    run(Request(method, config.zssr_steps, known)),
                )
    for steps, score in ours.items():
        yield f"mzsr {steps}", score


def _result(config: EvalConfig, images: int, found: dict[str, dict[str, list[Score]]]) -> Result:
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for kernel, methods in found.items():
        metrics[kernel] = {name: _mean(list_) for name, list_ in methods.items()}
        for name, mean in metrics[kernel].items():
            cells = (f"{mean['psnr']:.2f}", f"{mean['ssim']:.4f}", f"{mean['seconds']:.2f}")
            rows.append((kernel, name, *cells))
    columns = ("blur", "method", "PSNR-Y dB", "SSIM-Y", "s / image")
    return Result(
        inputs={"data": str(config.data), "images": images, "scale": config.scale},
        metrics=metrics,
        tables=(Table(f"x{config.scale}, {images} images, means", columns, rows),),
    )


def _mean(list_: Sequence[Score]) -> dict[str, float]:
    names = ("psnr", "ssim", "seconds")
    return {name: sum(getattr(s, name) for s in list_) / len(list_) for name in names}
