"""What is left of a reconstruction: the image file, a picture, scores, and a table."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.arrays import array_bytes, read_array, write_array
from ....core.errors import DataError
from ....core.media import IMAGE_SUFFIXES, contact_sheet, write_image
from ....core.metrics import psnr, ssim
from ....core.results import Result, Table
from .config import SolveOptions, parse_window

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
    pictured: bool,
) -> Result:
    """Write the images (N, 1, H, W) and the picture, score them, and return the result.

    `pictured` images are the colours of one picture in [0, 1]; others are slices of a volume.
    Raises `DataError` for a reference of another size, or a volume that shall be one picture.
    """
    count = len(images)
    looked_at = config.out.suffix.lower() == ".png" or (str(config.out) == "-" and pictured)
    if looked_at and count > 1 and not pictured:
        raise DataError(
            f"{source} holds {count} slices, a .png shows one",
            "choose one with --slice, or write all with -o volume.npy",
        )
    scores = _scores(config, images, classical, pictured)
    low, high = _window(config, images, pictured)
    outputs = {} if str(config.out) == "-" else {"image": str(config.out)}
    notes = []
    if looked_at or config.plot:
        notes.append(f"shown: black is {low:g}, white {high:g}")
    stream = _write(config.out, images, (low, high), pictured, looked_at)
    if config.plot is not None:
        pairs = [_shown(x, (low, high), pictured) for x in (classical, images)]
        write_image(config.plot, contact_sheet(torch.stack(pairs), 2))
        outputs["picture"] = str(config.plot)
    metrics = _summary(reports) | scores | {"shape": list(images.shape[2:]), "seconds": seconds}
    if looked_at or config.plot:
        metrics["window"] = [low, high]
    return Result(
        inputs={"data": source, **_settings(config)},
        outputs=outputs,
        metrics=metrics,
        tables=(_table(metrics, reports),),
        notes=tuple(notes),
        stream=stream,
    )


def _settings(config: SolveOptions) -> dict[str, Any]:
    hidden = ("out", "overwrite", "plot", "certify")
    values = config.to_dict().items()
    return {name.rstrip("_"): v for name, v in values if v is not None and name not in hidden}


def _write(
    out: Path, images: Tensor, window: tuple[float, float], pictured: bool, looked_at: bool
) -> bytes | None:
    """Write the file, or return it where it shall go to standard output."""
    if looked_at:
        shown = _shown(images, window, pictured)
        if str(out) != "-":
            write_image(out, shown)
            return None
        return _png(shown)
    array = images[:, 0].numpy()
    array = array[0] if len(array) == 1 else array
    if str(out) == "-":
        return array_bytes(array)
    write_array(out, array)
    return None


def _png(image: Tensor) -> bytes:
    from PIL import Image as pillow

    levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    pillow.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(stream, "PNG")
    return stream.getvalue()


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
    from .pictures import read_planes

    if pictured or path.suffix.lower() in IMAGE_SUFFIXES - {".tif", ".tiff"}:
        truth = read_planes(path)
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
