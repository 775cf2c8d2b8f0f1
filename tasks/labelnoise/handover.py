"""The demo on generated pictures, and the export of the classifier to other run times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image as pillow

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.files import check_writable, replacing
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.results import Result
from .apply import find_noise
from .checkpoint import Classifier, open_trained
from .config import EvalConfig, LabelnoiseConfig
from .score import evaluate

SIZES = {"circle": 260, "square": 150, "triangle": 90, "cross": 60}
WRONG = 0.15
SIDE = 24


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Draw shapes, label some wrongly, find those labels; all files and the page in `out`."""
    check_writable(out / "report.csv", overwrite)
    table = draw_shapes(out, 0)
    config = LabelnoiseConfig(
        data=table,
        out=out / "report.csv",
        html=out / "report.html",
        summary=out / "summary.json",
        image_size=16,
        batch_size=64,
        overwrite=True,
    )
    found = find_noise(config, run_options, progress)
    scored = evaluate(EvalConfig(data=config.out, truth=table), run_options, progress)
    return Result(
        inputs={"data": "generated"},
        outputs={**found.outputs, "images": str(out / "shapes")},
        metrics={**found.metrics, "scores": scored.metrics},
        tables=(*found.tables, *scored.tables[:1]),
        notes=(*found.notes, "The pictures are drawn: shapes on noise, 15 % labelled at random."),
    )


def draw_shapes(folder: Path, seed: int) -> Path:
    """Write shapes/CLASS/N.png and labels.csv (path, label, true_label), and return the latter."""
    random = np.random.default_rng(seed)
    rows = []
    names = list(SIZES)
    for name, count in SIZES.items():
        for number in range(count):
            path = Path("shapes") / name / f"{number:03d}.png"
            with replacing(folder / path) as temporary:
                pillow.fromarray(draw(name, random)).save(temporary)
            given = names[random.integers(len(names))] if random.random() < WRONG else name
            rows.append((str(path), given, name))
    table = folder / "labels.csv"
    with replacing(table) as temporary:
        pl.DataFrame(rows, ("path", "label", "true_label"), orient="row").write_csv(temporary)
    return table


def draw(name: str, random: np.random.Generator) -> np.ndarray:
    """Return one shape (SIDE, SIDE, 3) uint8 at a random place, size and colour, on noise."""
    radius = random.uniform(5, 8)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE / 2 + random.uniform(-3, 3, (2, 1, 1)))
    inside = {
        "circle": x**2 + y**2 < radius**2,
        "square": np.maximum(abs(x), abs(y)) < 0.85 * radius,
        "triangle": (y < 0.7 * radius) & (y > 2 * abs(x) - radius),
        "cross": (np.minimum(abs(x), abs(y)) < 0.25 * radius)
        & (np.maximum(abs(x), abs(y)) < radius),
    }[name]
    levels = random.integers(0, 110, (SIDE, SIDE, 3))
    levels[inside] += random.integers(60, 145, 3)
    return levels.clip(0, 255).astype(np.uint8)


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the classifier: levels 0..255 (N, 3, S, S) float32 -> logits (N, K)."""
    if factory is not None:
        raise UsageError("--factory: the networks of labelnoise need none")
    trained = open_trained(file)
    side = trained.options.image_size
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255
    difference = export_network(Classifier(trained.model).eval(), example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(f"agrees with the original to {difference:.1e} of the largest output",),
    )
