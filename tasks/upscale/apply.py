"""The main job: small pictures in, large ones out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.batch import STREAM, Job, plan_images, run_jobs
from ...core.errors import DataError
from ...core.files import check_writable
from ...core.media import MAX_PIXELS
from ...core.options import BatchOptions, RunOptions
from ...core.pictures import (
    Picture,
    check_format,
    encode_picture,
    read_picture,
    write_picture,
)
from ...core.progress import Progress, Silent
from ...core.report import write_figure
from ...core.results import Result, Table
from ...core.runtime import memory_errors, start
from .cascade import stages, target_size
from .choice import PLAIN, Choice, check_size, choose, degradation_of, describe
from .config import UpscaleConfig
from .degradation import resize
from .enlarger import NETWORKS, Enlarger, Request
from .pictures import strip

SHOWN = 20  # rows of the table for people
PLOTTED = (1, 5, 10)  # steps in --plot
_ANIMATED = ("GIF", "PNG", "WEBP")


@dataclass(frozen=True, kw_only=True)
class UpscaleResult(Result):
    """What `upscale` returns; `pictures` maps the input to its large picture, where alone."""

    pictures: dict[str, Picture]


def upscale(
    config: UpscaleConfig,
    batch: BatchOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> UpscaleResult:
    """Enlarge every image of `config.inputs` and write it to `config.out`, PNG where unnamed.

    Raises `UsageError` for options that do not fit together, `CheckpointError` for unusable
    weights, and `DataError` when an image cannot be used; of several the failed ones are skipped
    and listed.
    """
    batch, progress = batch or BatchOptions(), progress or Silent()
    jobs = _plan(config, batch)
    tool = _Upscaling(config, Enlarger(config, start(run_options or RunOptions())), progress)
    records: dict[str, dict[str, Any]] = {}
    pictures: dict[str, Picture] = {}
    streams: list[bytes] = []

    def work(job: Job) -> None:
        small = _read(job.source)
        name = "standard input" if job.source == STREAM else str(job.source)
        large, record = tool.picture(small, name)
        if job.target == STREAM:
            streams.append(encode_picture(large, _lossless(small.suffix)))
        else:
            write_picture(job.target, large)
        if config.plot is not None and not records:
            write_figure(config.plot, tool.plot(small, name))
        records[str(job.source)] = record
        if len(jobs) == 1:
            pictures[str(job.source)] = large

    with memory_errors("pass a smaller --tile, --back-project 0, or a smaller image"):
        failures = run_jobs(jobs, work, batch, progress, "images")
    return UpscaleResult(
        inputs={"images": [str(path) for path in config.inputs]},
        outputs=_outputs(config, jobs, records),
        metrics={"images": records},
        tables=(_table(records),),
        notes=tuple(_notes(config, records)),
        failures=failures,
        stream=streams[0] if streams else None,
        pictures=pictures,
    )


class _Upscaling:
    """One picture after the other with the same options."""

    def __init__(self, config: UpscaleConfig, enlarger: Enlarger, progress: Progress) -> None:
        self.config, self.enlarger, self.progress = config, enlarger, progress
        choice = choose(config.kernel, config.sampling, progress)
        # Interpolation asks for no blur; estimating one would only refuse small pictures.
        self.choice = Choice("bicubic", plain=True) if config.method == "bicubic" else choice
        self.start = enlarger.start(config.method)
        known = self.start.scales if config.method in NETWORKS else (2, 3, 4)
        self.stages = stages(config.scale, known)
        steps = config.zssr_steps if config.method == "zssr" else config.steps
        self.request = Request(
            config.method, steps, self.choice.known, config.noise, config.ensemble
        )

    def picture(self, small: Picture, name: str) -> tuple[Picture, dict[str, Any]]:
        """Return the large picture and the record of each stage."""
        image = _colour(small.planes)
        records = []
        height, width = target_size(image.shape[-2], image.shape[-1], self.config.scale)
        if height * width > MAX_PIXELS:
            raise DataError(f"{name} would have {width}x{height} pixels, more than {MAX_PIXELS:,}")
        for number, factor in enumerate(self.stages):
            image, record = self._stage(image, factor, number, name)
            records.append(record)
        if image.shape[-2:] != (height, width):
            image = resize(image, height, width).clamp(0, 1)
        planes = image[0].cpu()
        if len(small.planes) == 1:
            planes = planes.mean(0, keepdim=True)
        large = replace(small.with_planes(planes), alpha=_alpha(small, height, width))
        return large, {"size": [width, height], "stages": records}

    def _stage(
        self, image: Tensor, factor: int, number: int, name: str
    ) -> tuple[Tensor, dict[str, Any]]:
        request = self.request
        if request.steps and request.method not in ("bicubic", "ibp"):
            check_size(image, factor, name)
        # The kernel is that of the picture; what the first stage made of it is sharp.
        choice = self.choice if number == 0 else Choice("bicubic", plain=True)
        degradation = degradation_of(choice, image, factor, self.start.estimators, name)
        found = self.enlarger.enlarge(image, degradation, request)
        if request.steps and found.record.get("best_step") == 0:
            self.progress.warn(f"{name}: adaptation did not lower the loss; left unadapted")
        return found.image, {"scale": factor, **describe(degradation), **found.record}

    def plot(self, small: Picture, name: str) -> Any:
        """Return a figure of a detail: input, bicubic, and ours after 1, 5 and 10 steps."""
        image, factor = _colour(small.planes), self.stages[0]
        degradation = degradation_of(self.choice, image, factor, self.start.estimators, name)
        request = replace(self.request, steps=max(PLOTTED), snapshots=PLOTTED)
        plain = self.enlarger.enlarge(image, degradation, replace(request, method="bicubic"))
        panels = {"bicubic": plain.image}
        if request.method in NETWORKS:
            check_size(image, factor, name)
            shots = self.enlarger.enlarge(image, degradation, request).snapshots
            panels |= {f"{request.method}, steps: {n}": shot for n, shot in shots.items()}
        else:
            panels[request.method] = self.enlarger.enlarge(image, degradation, request).image
        return strip(image, panels, factor)


def _read(path: Path) -> Picture:
    """Return a picture. Raises `DataError` for one that moves."""
    from PIL import Image, UnidentifiedImageError

    if path != STREAM:
        try:
            with Image.open(path) as image:
                if getattr(image, "is_animated", False) and image.format in _ANIMATED:
                    raise DataError(f"{path} is animated", "extract the frame that you want")
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
            pass  # read_picture says what is wrong
    return read_picture(path)


def _colour(planes: Tensor) -> Tensor:
    """Return planes (1 or 3, H, W) as one colour image (1, 3, H, W)."""
    return planes.expand(3, -1, -1)[None]


def _alpha(small: Picture, height: int, width: int) -> np.ndarray[Any, Any] | None:
    """Return the alpha channel at the new size, by bicubic interpolation."""
    if small.alpha is None:
        return None
    top = 2**small.depth - 1
    plane = torch.from_numpy(small.alpha.astype(np.float32) / top)
    large = resize(plane[None, None], height, width)[0, 0].clamp(0, 1)
    return (large * top).round().numpy().astype(small.alpha.dtype)


# --- files ---


def _lossless(suffix: str) -> str:
    """Return the format to answer in: never a lossy one unasked."""
    return ".png" if suffix in (".jpg", ".jpeg") else suffix


def _plan(config: UpscaleConfig, batch: BatchOptions) -> list[Job]:
    """Return the jobs. Raises `UsageError` for what cannot work, before any work is done."""
    jobs = plan_images(config.inputs, _target(config), batch)
    if len(jobs) > 1 or (jobs and not jobs[0].alone):
        jobs = [
            replace(job, target=job.target.with_suffix(_lossless(job.target.suffix.lower())))
            for job in jobs
        ]
        for job in jobs:
            if not batch.skip_existing:
                check_writable(job.target, batch.overwrite)
        if batch.skip_existing:
            jobs = [job for job in jobs if not job.target.exists()]
    for job in jobs:
        if job.target != STREAM:
            check_format(job.target)
    if config.plot is not None:
        check_format(config.plot, "--plot")
        check_writable(config.plot)
    return jobs


def _target(config: UpscaleConfig) -> Path:
    """Return --out; a single image without one gets its own name, as PNG, in `upscaled`."""
    default = UpscaleConfig.model_fields["out"].default
    alone = len(config.inputs) == 1 and not config.inputs[0].is_dir()
    if config.out != default or not alone:
        return config.out
    source = config.inputs[0]
    name = "image.png" if source == STREAM else source.name
    return Path(config.out / Path(name).with_suffix(_lossless(Path(name).suffix.lower())))


# --- what the user sees ---


def _outputs(
    config: UpscaleConfig, jobs: Sequence[Job], records: dict[str, dict[str, Any]]
) -> dict[str, str]:
    outputs: dict[str, str] = {}
    if len(jobs) == 1 and jobs[0].target != STREAM and records:
        outputs["image"] = str(jobs[0].target)
    elif len(jobs) > 1:
        outputs["images"] = str(config.out)
    if config.plot is not None and records:
        outputs["plot"] = str(config.plot)
    return outputs


def _table(records: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for name, record in list(records.items())[:SHOWN]:
        first = record["stages"][0]
        variances = " ".join(f"{value:.2f}" for value in first["variances"])
        losses = ""
        if "loss_before" in first:
            losses = f"{255 * first['loss_before']:.2f} > {255 * first['loss_after']:.2f}"
        seconds = sum(stage["seconds"] for stage in record["stages"])
        size = "x".join(str(n) for n in record["size"])
        rows.append((Path(name).name, size, variances, losses, f"{seconds:.1f}"))
    return Table("Enlarged", ("image", "size", "blur", "loss", "seconds"), rows)


def _notes(config: UpscaleConfig, records: dict[str, dict[str, Any]]) -> Iterator[str]:
    if len(records) > SHOWN:
        yield f"and {len(records) - SHOWN} more images"
    told = "estimated" if config.kernel == "estimate" else "as told"
    if config.kernel == PLAIN or config.method == "bicubic":
        told = "none: a sharp source, reduced by bicubic interpolation"
    yield f"Blur ({told}): variances along its axes in pixels of the result, squared."
    if any("loss_before" in record["stages"][0] for record in records.values()):
        yield "Loss: error in grey levels on the image reduced once more, before > after."
