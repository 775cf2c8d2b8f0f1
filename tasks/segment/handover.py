"""The demo on the generated world, and why there is no export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image as pillow

from ...core.errors import UsageError
from ...core.media import contact_sheet, read_image, write_image
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from ...core.runtime import start
from .apply import look, overlay
from .checkpoint import open_trained
from .config import EvalConfig, SegmentTraining, SynthConfig, TrainConfig
from .fit import train
from .references import open_references
from .score import evaluate
from .synth import synthesise

SCENES, TEST_SCENES, STEPS, SIDE = 800, 40, 500, 32
SHOWN = 12


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Draw a world of shapes, train on it for some minutes, look; all files in `out`."""
    world = out / "world"
    made = SynthConfig(
        out=world, scenes=SCENES, test_scenes=TEST_SCENES, image_size=SIDE, overwrite=True
    )
    drawn = synthesise(made, progress)
    (out / "run" / "last.safetensors").unlink(missing_ok=True)
    (out / "run" / "best.safetensors").unlink(missing_ok=True)
    config = TrainConfig(data=world / "refs.jsonl", out=out / "run", image_size=SIDE)
    options = SegmentTraining(steps=STEPS, save_every=max(1, STEPS // 2))
    trained = train(config, options, run_options, progress)
    weights = config.out / "best.safetensors"
    asked = EvalConfig(data=config.data, weights=(weights,), controls=True)
    scored = evaluate(asked, run_options, progress)
    picture = out / "found.png"
    sheet(config, weights, run_options, picture)
    result = Result(
        inputs={"data": "generated"},
        outputs={"report": str(out / "report.html"), "picture": str(picture)},
        metrics={"train": trained.metrics, "eval": scored.metrics},
        tables=(*drawn.tables, *scored.tables),
        notes=(f"{STEPS} steps only: 'mlkit train segment' for longer gives much better masks.",),
    )
    write_report(
        out / "report.html",
        "mlkit demo segment",
        result,
        settings={"steps": STEPS, "scenes": SCENES},
        command="mlkit demo segment",
        pictures={"What was found in test scenes": picture},
    )
    return result


def sheet(config: TrainConfig, weights: Path, run_options: RunOptions, path: Path) -> None:
    """Write test scenes with the masks found in them, four times as large."""
    runtime = start(run_options)
    trained = open_trained(weights, runtime.device)
    tests = [r for r in open_references(config.data, config) if r.split == "test" and r.mask]
    tiles = []
    for reference in tests[:SHOWN]:
        picture = read_image(reference.image)
        found = look(trained, picture, [reference.expression], 0.5, runtime)
        large = pillow.fromarray(overlay(picture, [found[0].mask])).resize((4 * SIDE, 4 * SIDE), 0)
        tiles.append(torch.from_numpy(np.array(large)).permute(2, 0, 1) / 255)
    write_image(path, contact_sheet(torch.stack(tiles), columns=4))


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Raise `UsageError`: export writes networks of one input, this one takes two."""
    raise UsageError(
        "segment takes a photograph and words; export writes networks of one input",
        "use mlkit.tasks.segment.load(FILE) in Python",
    )
