"""The demo on a generated motorway, and the export of a device to other run times."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from .apply import forecast
from .checkpoint import Trained, open_trained
from .config import EvalConfig, ForecastConfig, RoundOptions, TrainConfig
from .fit import train
from .score import evaluate
from .synth import generate, write

ROUNDS = 8


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Train on a generated motorway, score, forecast; all files and a report in `out`."""
    write(generate(12, 14, 10, 0.01, 0), out)
    series, graph = out / "speeds.csv", out / "distances.csv"
    (out / "run" / "last.safetensors").unlink(missing_ok=True)
    config = TrainConfig(series=series, graph=graph, out=out / "run", preset="quick")
    trained = train(config, RoundOptions(rounds=ROUNDS, personalise=4), None, run_options, progress)
    weights = out / "run" / "best.safetensors"
    errors, day = out / "errors.png", out / "day.png"
    asked = EvalConfig(series=series, graph=graph, weights=(weights,), plot=errors, every=2)
    scored = evaluate(asked, run_options, progress)
    wanted = ForecastConfig(
        series=series, graph=graph, weights=weights, out=out / "forecast.csv", plot=day,
        overwrite=True,
    )  # fmt: skip
    found = forecast(wanted, run_options, progress)
    result = Result(
        inputs={"data": "generated"},
        outputs={"report": str(out / "report.html"), "day": str(day), "errors": str(errors)},
        metrics={"train": trained.metrics, "eval": scored.metrics, "forecast": found.metrics},
        tables=(*trained.tables, *scored.tables, *found.tables),
        notes=("The motorway is generated: 12 sensors, 14 days, jams that travel upstream.",),
    )
    write_report(
        out / "report.html",
        "mlkit demo forecast",
        result,
        settings={"rounds": ROUNDS, "series": str(series)},
        command="mlkit demo forecast",
        pictures={"The last day and the forecast": day, "Error over the horizon": errors},
    )
    return result


class _Device(nn.Module):
    """What one node computes: its past and its embedding in, standardised values out."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.settings.net
        self.history, self.horizon = trained.windows.history, trained.windows.horizon
        self.layers, self.embedding = trained.model.layers, trained.settings.embedding
        self.weights = nn.Parameter(trained.device[:1].clone())

    def forward(self, packed: Tensor) -> Tensor:
        """Return forecasts (B, H) of rows (B, 2 T + H + L e): values, times, times ahead, g."""
        t, h = self.history, self.horizon
        values, times, ahead, g = packed[None].split((t, t, h, self.layers * self.embedding), -1)
        states = self.net.encode(self.weights, values, times)
        g = g.reshape(*g.shape[:2], self.layers, self.embedding)
        last = values[..., -1], times[..., -1]
        return self.net.decode(self.weights, torch.cat((states, g), -1), last, ahead)[0]


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the device network: rows (B, 2 T + H + L e) of values, times, times ahead and g.

    Raises `UsageError` where every node has weights of its own.
    """
    trained = open_trained(file)
    if len(trained.device) > 1:
        raise UsageError(f"{file} has a network per sensor: there is no one network to export")
    device = _Device(trained)
    width = 2 * device.history + device.horizon + device.layers * device.embedding
    example = torch.rand(2, width, generator=torch.Generator().manual_seed(0))
    difference = export_network(device, example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(
            f"agrees with the original to {difference:.1e} of the largest output; standardise by "
            f"mean {trained.scaler.mean:g}, deviation {trained.scaler.std:g}",
        ),
    )
