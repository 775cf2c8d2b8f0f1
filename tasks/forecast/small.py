"""A small model for series that come without weights, kept beside the file for the next time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from ...core.errors import DataError
from ...core.files import sha256
from ...core.progress import Progress
from ...core.runtime import Runtime
from .checkpoint import Trained, open_trained, save_trained
from .config import FederationOptions, ForecastConfig, ModelOptions, RoundOptions, WindowOptions
from .data import Series
from .fit import fit, make_engine, resolve, thin, with_errors
from .graph import Graph
from .windows import split_starts

OPTIONS = RoundOptions(patience=4)


def small_model(
    config: ForecastConfig, series: Series, graph: Graph, runtime: Runtime, progress: Progress
) -> Trained:
    """Return the small model of these series: from its cache, or trained now and kept there.

    A folder that cannot be written costs a warning, and training again the next time. Raises
    `DataError` when the series are too short.
    """
    model, options = resolve(ModelOptions(), "quick"), resolve(OPTIONS, "quick")
    windows = thin(WindowOptions(), series.values.shape[1], "quick")
    place = None
    if str(config.series) != "-":
        place = _cache(config, graph, runtime.seed, (model, options, windows))
    if place is not None and place.exists():
        progress.info(f"using {place}")
        return open_trained(place)
    split_starts(
        series.values.shape[1], windows.history, windows.horizon, windows.stride,
        windows.eval_stride, series.name,
    )  # fmt: skip
    kept = f", to be kept as {place}" if place is not None else ""
    progress.warn(f"no --weights: training a small model on {series.name} first{kept}")
    engine = make_engine(series, graph, model, windows, options, FederationOptions(), runtime)
    content = {"seed": runtime.seed, "training": options.to_dict(), "step": series.step}
    trained, _, _ = fit(engine, graph, windows, content, None, None, progress)
    trained = with_errors(trained, series, graph, runtime, progress)
    if place is not None:
        try:
            save_trained(place, trained)
        except DataError as error:
            progress.warn(f"the small model was not kept: {error.message}")
    return trained


def _cache(config: ForecastConfig, graph: Graph, seed: int, options: tuple[object, ...]) -> Path:
    """Return where the small model is kept: its name holds a hash of all it depends on."""
    edges = torch.stack((graph.source.double(), graph.target.double(), graph.weight.double()))
    parts = {
        "series": sha256(config.series),
        "graph": hashlib.sha256(edges.numpy().tobytes()).hexdigest(),
        "reading": [config.transpose, config.missing, config.day_steps],
        "options": [str(option) for option in options],
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    path = Path(config.series)
    return path.with_name(f"{path.name}.{digest[:12]}.safetensors")
