"""What is left of a reconstruction: the image file, a picture, scores, and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.arrays import array_bytes, read_array, write_array
from ....core.errors import DataError
from ....core.files import write_bytes
from ....core.media import contact_sheet, write_image
from ....core.metrics import psnr, ssim
from ....core.pictures import Picture, encode_picture
from ....core.results import Result, Table
from .config import SolveOptions, parse_window
from .pictures import is_picture, open_picture

Reports = list[dict[str, Any]]


def check_delivery(
    config: Any, source: str, shape: tuple[int, ...], pictured: bool
) -> Tensor | None:
    """Fail before work starts where images of this shape (N, 1, H, W) could not be delivered.

    Returns the reference. Raises `DataError` when it is of another size, or when a volume shall
    be written as one picture.
    """
    if shape[0] > 1 and not pictured and config.out.suffix.lower() == ".png":
        raise DataError(
            f"{source} holds {shape[0]} slices, a .png shows one",
            "choose one with --slice, or write all with -o volume.npy",
        )
    return None if config.reference is None else read_reference(config.reference, shape, pictured)


def deliver(
    config: Any,
    source: str,
    images: Tensor,
    classical: Tensor,
    truth: Tensor | None,
    reports: Reports,
    seconds: float,
    picture: Picture | None,
) -> Result:
    """Write the images (N, 1, H, W) and what to look at, score them, and return the result.

    With a `picture` the images are its colours, in [0, 1]; otherwise slices of a volume.
    """
    looked_at = config.out.suffix.lower() == ".png" or (str(config.out) == "-" and picture)
    window = _window(config, images, picture is not None)
    content: Any = _encode(images, window, picture) if looked_at else _array(images)
    outputs = {}
    if str(config.out) != "-":
        outputs["image"] = str(config.out)
        if looked_at:
            write_bytes(config.out, content)
        else:
            write_array(config.out, content)
    if config.plot is not None:
        pair = torch.stack([_shown(x, window, picture is not None) for x in (classical, images)])
        write_image(config.plot, contact_sheet(pair, 2))
        outputs["picture"] = str(config.plot)
    metrics = _summary(reports) | {"shape": list(images.shape[2:]), "seconds": round(seconds, 3)}
    metrics |= {} if truth is None else _scores(images, classical, truth, picture is not None)
    notes = []
    if looked_at or config.plot:
        metrics["window"] = list(window)
        notes.append(f"shown: black is {window[0]:g}, white {window[1]:g}")
    return Result(
        inputs={"data": source, **_settings(config)},
        outputs=outputs,
        metrics=metrics,
        tables=(_table(metrics, reports),),
        notes=tuple(notes),
        stream=None if outputs.get("image") else content if looked_at else array_bytes(content),
    )


def _settings(config: SolveOptions) -> dict[str, Any]:
    hidden = ("out", "overwrite", "plot", "certify")
    values = config.to_dict().items()
    return {name.rstrip("_"): v for name, v in values if v is not None and name not in hidden}


def _array(images: Tensor) -> Any:
    """Return float32 (H, W), or (N, H, W) for several."""
    array = images[:, 0].numpy()
    return array[0] if len(array) == 1 else array


def _encode(images: Tensor, window: tuple[float, float], picture: Picture | None) -> bytes:
    """Return a .png: a picture keeps its depth, colours and, at the same size, its alpha."""
    planes = _shown(images, window, picture is not None)
    like = picture or Picture(planes)
    if like.planes.shape != planes.shape:
        like = replace(like, alpha=None)
    return encode_picture(like.with_planes(planes), ".png")


def _shown(images: Tensor, window: tuple[float, float], pictured: bool) -> Tensor:
    """Return (C, H, W) in [0, 1]: the colours, or the middle slice."""
    low, high = window
    chosen = images[:, 0] if pictured else images[len(images) // 2]
    return ((chosen - low) / (high - low)).clamp(0, 1)


def _window(config: SolveOptions, images: Tensor, pictured: bool) -> tuple[float, float]:
    given = parse_window(config.window) if config.window else None
    if given is not None:
        return given
    top = 1.0 if pictured else float(images.max())
    return 0.0, top if top > 0 else 1.0


def _scores(images: Tensor, classical: Tensor, truth: Tensor, pictured: bool) -> dict[str, Any]:
    """Return PSNR and SSIM of the images, and of the classical ones, against the truth."""
    peak = 1.0 if pictured else float(truth.max())
    scores = {"peak": peak}
    for name, found in (("", images), ("_classical", classical)):
        scores[f"psnr{name}"] = psnr(found, truth, peak)
        if min(truth.shape[2:]) >= 11:
            scores[f"ssim{name}"] = ssim(found, truth, peak)
    return scores


def read_reference(path: Path, shape: tuple[int, ...], pictured: bool) -> Tensor:
    """Return the true images (N, 1, H, W). Raises `DataError` for another size."""
    if pictured or is_picture(path):
        truth = open_picture(path).planes[:, None]
    else:
        array = np.ascontiguousarray(read_array(path), np.float32)
        truth = torch.from_numpy(array.reshape(-1, 1, *array.shape[-2:]))
    if tuple(truth.shape) != shape:
        found = "x".join(str(n) for n in truth.shape if n != 1)
        wanted = "x".join(str(n) for n in shape if n != 1)
        raise DataError(f"{path} is {found}, the reconstruction {wanted}", "check --size")
    return truth


def _summary(reports: Reports) -> dict[str, Any]:
    """Return the one report, or the reports of all slices under "slices"."""
    return dict(reports[0]) if len(reports) == 1 else {"slices": reports}


def _table(metrics: dict[str, Any], reports: Reports) -> Table:
    first = reports[0]
    rows = [("image", "x".join(str(n) for n in metrics["shape"]))]
    if len(reports) > 1:
        rows.append(("items", str(len(reports))))
    if "lambda" in first:
        rows.append(("lambda", f"{first['lambda']:.4g} ({first['rule']})"))
        rows.append(("noise", f"{first['noise']:.4g}"))
        reached = "" if all(r["converged"] for r in reports) else " (not converged)"
        most = max(r["iterations"] for r in reports)
        rows.append(("iterations", f"{most}{reached}"))
        rows.append(("last change", f"{max(r['change'] for r in reports):.2g}"))
        ratio = first["misfit"] / first["expected_misfit"]
        rows.append(("misfit / noise", f"{ratio:.3f}"))
    for name, label in (("_classical", "classical"), ("", first["method"])):
        if f"psnr{name}" in metrics:
            similarity = f", SSIM {metrics[f'ssim{name}']:.3f}" if f"ssim{name}" in metrics else ""
            rows.append((label, f"PSNR {metrics[f'psnr{name}']:.2f} dB{similarity}"))
    rows += _certificate_rows(first.get("certificate"))
    rows.append(("seconds", f"{metrics['seconds']:.1f}"))
    return Table(f"Reconstruction by {first['method']}", ("what", "value"), rows)


def _certificate_rows(certificate: dict[str, Any] | None) -> list[tuple[str, str]]:
    if certificate is None:
        return []
    rows = [
        ("convex", "yes" if certificate["convex"] else "NO"),
        ("adjoint error", f"{certificate['adjoint_error']:.1e}"),
        ("Lipschitz bound", f"{certificate['lipschitz_bound']:.4g}"),
        ("largest rise of the energy", f"{certificate['largest_rise']:.1e}"),
        ("gradient norm", f"{certificate['gradient_norm']:.2e}"),
    ]
    if certificate["distance"] is not None:
        rows.append(("distance to the minimiser", f"<= {certificate['distance']:.3g}"))
    else:
        rows.append(("energy above the minimum", f"<= {certificate['energy_gap']:.1e} (relative)"))
    return rows
