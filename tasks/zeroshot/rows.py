"""Predicted rows as a file, for other programs or for the official code."""

from __future__ import annotations

from ...core.files import check_writable
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import start
from .checkpoint import save_rows
from .classes import candidates
from .config import RowsConfig
from .override import open_model
from .scoring import make_scorer


def predict(
    config: RowsConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Write the rows of classes, of norm 1, their last entry being the bias."""
    progress = progress or Silent()
    check_writable(config.out, config.overwrite)
    start(run_options or RunOptions())
    trained = open_model(config)
    chosen = candidates(config.classes, trained.graph.taxonomy)
    with progress.task("predicting rows"):
        rows = make_scorer(trained, config, chosen.places).predicted
    save_rows(config.out, [trained.graph.taxonomy.ids[place] for place in chosen.places], rows)
    return Result(
        inputs={"model": trained.name, "classes": config.classes},
        outputs={"rows": str(config.out)},
        metrics={"rows": len(rows), "width": rows.shape[1]},
        notes=(f"{len(rows)} rows of {rows.shape[1]} numbers: weights, and the bias behind",),
    )
