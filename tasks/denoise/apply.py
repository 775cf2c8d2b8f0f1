"""The main job: noisy pictures in, clean ones out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.batch import STREAM, Job, plan_images, run_jobs
from ...core.errors import UsageError
from ...core.files import check_writable
from ...core.media import write_image
from ...core.options import BatchOptions, RunOptions
from ...core.pictures import (
    Picture,
    check_format,
    encode_picture,
    read_picture,
    write_picture,
)
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import memory_errors
from .certificate import Certificate
from .config import DenoiseConfig
from .denoiser import Denoiser
from .problem import start_exact

SHOWN = 20  # rows of the table for people
PROOFS = 3  # certificates that are shown


@dataclass(frozen=True, kw_only=True)
class DenoiseResult(Result):
    """What `denoise` returns; `pictures` maps each input to its clean picture, where kept."""

    pictures: dict[str, Picture]


def denoise(
    config: DenoiseConfig,
    batch: BatchOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> DenoiseResult:
    """Denoise every image of `config.inputs` and write it beside the others or into `config.out`.

    Raises `UsageError` for options that do not fit together, `CheckpointError` for unusable
    weights, and `DataError` when an image cannot be used or did not converge; of several
    images the failed ones are skipped and listed.
    """
    batch, progress = batch or BatchOptions(), progress or Silent()
    jobs = plan_images(config.inputs, _target(config), batch)
    _check(config, jobs)
    tool = Denoiser(config, start_exact(run_options or RunOptions()), progress)
    records: dict[str, dict[str, Any]] = {}
    pictures: dict[str, Picture] = {}
    streams: list[bytes] = []
    proofs: list[Certificate] = []

    def work(job: Job) -> None:
        noisy = read_picture(job.source)
        outcome = tool.clean(noisy, str(job.source))
        clean = noisy.with_planes(outcome.planes[:, 0])
        if job.target == STREAM:
            streams.append(encode_picture(clean, noisy.suffix))
        else:
            write_picture(job.target, clean)
        if config.plot is not None and not records:
            write_image(config.plot, _strip(noisy, clean))
        records[str(job.source)] = outcome.record
        proofs.extend(outcome.certificates)
        if len(jobs) == 1:
            pictures[str(job.source)] = clean

    with memory_errors("pass a smaller image"):
        failures = run_jobs(jobs, work, batch, progress, "images")
    return DenoiseResult(
        inputs={"images": [str(path) for path in config.inputs]},
        outputs=_outputs(config, jobs, records),
        metrics={"images": records},
        tables=_tables(records, proofs),
        notes=tuple(_notes(config, records)),
        failures=failures,
        stream=streams[0] if streams else None,
        pictures=pictures,
    )


# --- what the user sees ---


def _target(config: DenoiseConfig) -> Path:
    """Return --out; a single image without one gets its own name in the folder `denoised`."""
    default = DenoiseConfig.model_fields["out"].default
    if config.out == default and len(config.inputs) == 1 and not config.inputs[0].is_dir():
        name = "image.png" if config.inputs[0] == STREAM else config.inputs[0].name
        return Path(config.out / name)
    return config.out


def _check(config: DenoiseConfig, jobs: Sequence[Job]) -> None:
    """Refuse what cannot work before any work is done."""
    for job in jobs:
        if job.target != STREAM:
            check_format(job.target)
    if config.plot is not None:
        check_format(config.plot, "--plot")
        check_writable(config.plot)
    if config.certify and (config.mode, config.method) != ("prox", "crr"):
        raise UsageError("--certify needs --mode prox and --method crr")
    if config.method == "tv" and config.mode == "tstep":
        raise UsageError("--method tv has no --mode tstep")


def _outputs(
    config: DenoiseConfig, jobs: Sequence[Job], records: dict[str, dict[str, Any]]
) -> dict[str, str]:
    outputs: dict[str, str] = {}
    if len(jobs) == 1 and jobs[0].target != STREAM and records:
        outputs["image"] = str(jobs[0].target)
    elif len(jobs) > 1:
        outputs["images"] = str(config.out)
    if config.plot is not None and records:
        outputs["plot"] = str(config.plot)
    return outputs


def _tables(records: dict[str, dict[str, Any]], proofs: Sequence[Certificate]) -> tuple[Table, ...]:
    rows = [
        (
            Path(name).name,
            _sigma_text(record),
            str(record["iterations"]),
            f"{record.get('distance_rms', 0):.2g}" if "distance_rms" in record else "",
            f"{record.get('seconds', 0):.2f}",
        )
        for name, record in list(records.items())[:SHOWN]
    ]
    columns = ("image", "sigma", "iterations", "error bound", "seconds")
    tables = [Table("Denoised", columns, rows)]
    for number, proof in enumerate(proofs[:PROOFS], 1):
        title = "Certificate" if len(proofs) == 1 else f"Certificate {number}"
        tables.append(Table(title, ("what", "finding"), proof.rows()))
    return tuple(tables)


def _sigma_text(record: dict[str, Any]) -> str:
    levels = record["sigma"]
    text = " ".join(dict.fromkeys(f"{level:.2f}" for level in levels))
    return f"{text} (estimated)" if record.get("sigma_estimated") else text


def _notes(config: DenoiseConfig, records: dict[str, dict[str, Any]]) -> Iterator[str]:
    if len(records) > SHOWN:
        yield f"and {len(records) - SHOWN} more images"
    if config.mode == "prox":
        yield "The error bound is proved: RMS distance to the minimiser in grey levels of 255."
    loose = [name for name, record in records.items() if not record["converged"]]
    if loose:
        yield f"{len(loose)} results did not reach --tol (--best-effort)"
    for record in records.values():
        trained = record.get("trained_sigma")
        if trained and abs(max(record["sigma"]) - trained) > 0.2 * trained:
            yield f"--mode tstep was trained at sigma {trained:g}; --mode prox fits any noise."
            break


def _strip(noisy: Picture, clean: Picture) -> Tensor:
    """Return noisy, clean, and their difference around grey, side by side (C, H, 3 W)."""
    difference = noisy.planes - clean.planes
    spread = 3 * float(difference.std()) or 1.0
    return torch.cat((noisy.planes, clean.planes, 0.5 + difference / (2 * spread)), 2)
