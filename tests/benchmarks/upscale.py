"""`upscale` in seconds: each part of the work, and the methods at the same image size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.core.options import RunOptions
from mlkit.core.runtime import start, stream
from mlkit.tasks.upscale.adaptation import Plan, adapt, son_pair
from mlkit.tasks.upscale.config import EvalConfig
from mlkit.tasks.upscale.degradation import Degradation, enlarge
from mlkit.tasks.upscale.enlarger import Enlarger, Request
from mlkit.tasks.upscale.kernels import gaussian

from .timing import cpu_seconds

SIDE = 256  # of the small image


def compare() -> list[dict[str, Any]]:
    """Return seconds per image of 256 x 256 pixels at x2, and of the parts beside torch's own."""
    torch.set_num_threads(1)
    low = F.avg_pool2d(torch.rand(1, 3, 4 * SIDE, 4 * SIDE, generator=stream(0, 20)), 4)
    blur = Degradation(gaussian(2, 2, 0).float(), 2, "direct")
    tool = Enlarger(EvalConfig(data="."), start(RunOptions(threads=1)))
    rows = [
        _row("enlarge, ours", lambda: enlarge(low, 2)),
        _row("enlarge, torch", lambda: F.interpolate(low, scale_factor=2, mode="bicubic")),
        _row("degrade", lambda: blur(enlarge(low, 2))),
    ]
    for method, steps in (("bicubic", 0), ("ibp", 0), ("mzsr", 0), ("mzsr", 1), ("mzsr", 5)):
        request = Request(method, steps)  # type: ignore[arg-type]
        rows.append(_row(f"{method}, {steps} steps", lambda r=request: tool.enlarge(low, blur, r)))
    network = tool.start("mzsr").network
    pair = son_pair(low, blur)
    step = cpu_seconds(lambda: adapt(network, pair, Plan(4)))
    step -= cpu_seconds(lambda: adapt(network, pair, Plan(0)))
    rows.append({"work": "one adaptation step", "seconds": round(step / 4, 4)})
    rows.append({"work": "megapixels a second, 5 steps", "rate": round(_rate(rows), 3)})
    return rows


def _rate(rows: list[dict[str, Any]]) -> float:
    (seconds,) = (row["seconds"] for row in rows if row["work"] == "mzsr, 5 steps")
    return (2 * SIDE) ** 2 / 1e6 / float(seconds)


def _row(work: str, function: Callable[[], Tensor | object]) -> dict[str, Any]:
    return {"work": work, "seconds": round(cpu_seconds(function), 4)}
