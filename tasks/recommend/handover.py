"""The demo that shows the dial, and the export of the encoder to other run times."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from .apply import recommend
from .checkpoint import open_trained
from .config import EvalConfig, RecommendConfig, RecommendTrainOptions, TrainConfig
from .fit import train
from .model import Popular
from .score import evaluate
from .synth import generate, write

DIAL = "0,0.05,0.25,1,4"
STEPS = 600


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Train on a generated log, turn the dial, recommend; all files and a report in `out`."""
    write(generate(2000, 400, 20, 0), out)
    log, items, weights = out / "log.csv", out / "items.csv", out / "run" / "best.safetensors"
    (out / "run" / "last.safetensors").unlink(missing_ok=True)
    options = RecommendTrainOptions(steps=STEPS, save_every=150, batch_size=128)
    trained = train(
        TrainConfig(log=log, items=items, out=out / "run"), options, run_options, progress
    )
    dial = out / "dial.png"
    config = EvalConfig(log=log, weights=(weights,), at="10", diversity=DIAL, plot=dial)
    scored = evaluate(config, run_options, progress)
    picture = out / "interests.png"
    asked = RecommendConfig(
        log=log, weights=weights, user=("u0",), top=8, diversity=0.25, plot=picture, overwrite=True
    )
    listed = recommend(asked, run_options, progress)
    result = Result(
        inputs={"data": "generated"},
        outputs={"report": str(out / "report.html"), "dial": str(dial), "map": str(picture)},
        metrics={"train": trained.metrics, "eval": scored.metrics, **listed.metrics},
        tables=(*trained.tables, *scored.tables, *listed.tables),
        notes=("The log is generated: 2,000 users with two to four favourite categories each.",),
    )
    write_report(
        out / "report.html",
        "mlkit demo recommend",
        result,
        settings={"steps": options.steps, "log": str(log)},
        command="mlkit demo recommend",
        pictures={"Recall against diversity": dial, "Interests of one user": picture},
    )
    return result


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the encoder: histories (B, T) int64 -> interests (B, K, d).

    Raises `UsageError` for MostPopular, which has none.
    """
    trained = open_trained(file)
    if isinstance(trained.model, Popular):
        raise UsageError(f"{file} is MostPopular: there is no network to export")
    width = trained.options.max_history
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(1, len(trained.items) + 1, (2, width), generator=generator)
    example[1, width // 2 :] = 0
    difference = export_network(trained.model, example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(
            f"agrees with the original to {difference:.1e} of the largest output; item vectors: "
            f"mlkit recommend --weights {file} --export-vectors DIR",
        ),
    )
