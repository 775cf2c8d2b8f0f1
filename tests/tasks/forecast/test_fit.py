from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError, DivergedError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.tasks.forecast import fit, rounds
from mlkit.tasks.forecast.adjacency import read_graph
from mlkit.tasks.forecast.checkpoint import load, open_trained
from mlkit.tasks.forecast.config import (
    FederationOptions,
    RoundOptions,
    SeriesOptions,
    TrainConfig,
)
from mlkit.tasks.forecast.data import read_series
from mlkit.tasks.forecast.predictor import Predictor
from mlkit.tasks.forecast.synth import generate, write
from mlkit.tasks.forecast.windows import split_starts

from .helpers import engine

RUN = RunOptions(device="cpu", seed=5)
SIZES: dict[str, Any] = {
    "hidden": 4, "server_hidden": 6, "server_size": 5, "history": 6, "horizon": 4,
    "eval_stride": 4, "stride": 4,
}  # fmt: skip
ROUNDS = RoundOptions(rounds=3, batch_size=16, lr=0.01)


@pytest.fixture
def road(tmp_path: Path) -> Path:
    write(generate(5, 2, 20, 0.02, 0), tmp_path)
    return tmp_path


def config(road: Path, out: str, **options: Any) -> TrainConfig:
    values = {**SIZES, **options}
    return TrainConfig(
        series=road / "speeds.csv", graph=road / "distances.csv", out=road / out, **values
    )


def same(one: Path, two: Path) -> None:
    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("method", "protection"),
    [
        ("cnfgnn", {}),
        ("cnfgnn", {"encoding_clip": 1.0, "encoding_noise": 0.5, "participation": 0.6}),
        ("local", {}),
        ("split", {}),
        ("central-gn", {}),
        ("dcrnn", {}),
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    road: Path, monkeypatch: pytest.MonkeyPatch, method: str, protection: dict[str, float]
) -> None:
    federation = FederationOptions(**protection)
    options = ROUNDS.model_copy(update={"personalise": 0 if method == "dcrnn" else 2})
    whole, cut = config(road, "whole", method=method), config(road, "cut", method=method)
    fit.train(whole, options, federation, RUN)
    real, calls = rounds._one_round, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(rounds, "_one_round", interrupted)
    with pytest.raises(InterruptedRun):
        fit.train(cut, options, federation, RUN)
    monkeypatch.setattr(rounds, "_one_round", real)
    fit.train(cut.model_copy(update={"resume": cut.out}), options, federation, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        same(whole.out / name, cut.out / name)
    assert (whole.out / "metrics.jsonl").read_text() == (cut.out / "metrics.jsonl").read_text()


def test_dcrnn_has_no_devices_to_personalise(road: Path) -> None:
    chosen = config(road, "run", method="dcrnn")
    with pytest.raises(UsageError, match=r"--personalise.*dcrnn"):
        fit.train(chosen, ROUNDS.model_copy(update={"personalise": 1}), None, RUN)
    result = fit.train(chosen, ROUNDS.model_copy(update={"personalise": 0}), None, RUN)
    assert set(result.metrics["validation"]) == {"dcrnn", "last value", "daily profile"}
    assert result.metrics["cost"]["bytes_up_per_round"] == 0
    series = read_series(chosen.series, SeriesOptions())
    graph = read_graph(road / "distances.csv", series.names, "auto", lambda said: None)
    starts = split_starts(series.values.shape[1], 6, 4, 4, 4)["valid"]
    made = Predictor(open_trained(chosen.out / "best.safetensors"), series, graph)
    error = float((made.forecast(starts) - made.truth(starts)).square().nanmean().sqrt())
    assert error == pytest.approx(result.metrics["validation"]["dcrnn"]["rmse"], rel=1e-4)


@pytest.mark.parametrize(
    "method", ["cnfgnn", "fedavg", "fmtl", "local", "at", "split", "central", "central-gn"]
)
def test_every_method_trains_saves_and_forecasts_the_same(road: Path, method: str) -> None:
    chosen = config(road, "run", method=method)
    result = fit.train(chosen, ROUNDS.model_copy(update={"personalise": 1}), None, RUN)
    assert set(result.metrics["validation"]) == {
        method, f"{method}, personalised", "last value", "daily profile",
    }  # fmt: skip
    assert (chosen.out / "report.html").exists()
    series = read_series(chosen.series, SeriesOptions())
    graph = read_graph(road / "distances.csv", series.names, "auto", lambda said: None)
    starts = split_starts(series.values.shape[1], 6, 4, 4, 4)["valid"]
    found = [
        Predictor(read(chosen.out / "best.safetensors"), series, graph).forecast(starts)
        for read in (open_trained, load)
    ]
    assert torch.equal(*found)
    error = result.metrics["validation"][f"{method}, personalised"]["rmse"]
    missed = found[0] - Predictor(
        open_trained(chosen.out / "best.safetensors"), series, graph
    ).truth(starts)
    assert float(missed.square().nanmean().sqrt()) == pytest.approx(error, rel=1e-5)


def test_the_best_round_is_kept_and_patience_ends_the_run() -> None:
    ours = engine(rounds=30, lr=0.3, patience=2)
    fitted = rounds.run_rounds(ours)
    scores = [entry["score"] for entry in fitted.history]
    assert fitted.best == max(scores)
    assert fitted.best_step == scores.index(max(scores)) + 1
    assert len(scores) == min(30, fitted.best_step + 2) or fitted.steps == 30
    assert -rounds.rmse(ours.evaluate("valid")) == pytest.approx(fitted.best, rel=1e-6)


def test_divergence_is_told(road: Path) -> None:
    ours = engine("fedavg", lr=1e30, rounds=4)
    with pytest.raises(DivergedError, match=r"no node sent a usable update|diverged"):
        rounds.run_rounds(ours)


def test_unseen_sensors_are_served_and_never_read(road: Path) -> None:
    places = road / "places.csv"
    part = {"locations": places, "inductive": 0.6}
    first = config(road, "first", **part)
    result = fit.train(first, ROUNDS, None, RUN)
    assert result.inputs["sensors"] == 3
    trained = open_trained(first.out / "best.safetensors")
    unseen = {"A01", "A02", "A03", "B04", "B05"} - set(trained.names)
    lines = (road / "speeds.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        for name in unseen:
            row[names.index(name)] = "1"
    (road / "speeds.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    second = config(road, "second", **part)
    fit.train(second, ROUNDS, None, RUN)
    same(first.out / "best.safetensors", second.out / "best.safetensors")
    series = read_series(road / "speeds.csv", SeriesOptions())
    graph = read_graph(road / "distances.csv", series.names, "auto", lambda said: None)
    predictor = Predictor(trained, series, graph)
    assert int(predictor.seen.sum()) == 3
    assert bool(predictor.forecast(torch.tensor([0, 5])).isfinite().all())


def test_presets_fill_only_what_was_not_given() -> None:
    quick = fit.resolve(TrainConfig(series=Path("x"), hidden=7), "quick")
    assert (quick.hidden, quick.server_hidden) == (7, 64)
    paper = fit.resolve(TrainConfig(series=Path("x")), "paper")
    assert (paper.hidden, paper.server_hidden, paper.server_size) == (64, 256, 128)
    options = fit.resolve(RoundOptions(), "paper")
    assert (options.rounds, options.batch_size, options.server_batch, options.lr) == (
        500,
        128,
        48,
        1e-3,
    )
    assert options.teacher == 1000


def test_runs_are_not_overwritten(road: Path) -> None:
    chosen = config(road, "run")
    fit.train(chosen, ROUNDS, None, RUN)
    with pytest.raises(UsageError, match="holds a run already"):
        fit.train(chosen, ROUNDS, None, RUN)
    other = config(road, "run", hidden=5, resume=road / "run")
    with pytest.raises(CheckpointError, match="another network"):
        fit.train(other, ROUNDS, None, RUN)


def test_damaged_checkpoints_are_refused(road: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(path, {"device": torch.ones(1, 3)}, Metadata("forecast", "model", {"nodes": []}))
    with pytest.raises(CheckpointError, match="lacks or distorts"):
        open_trained(path)
    chosen = config(road, "run")
    fit.train(chosen, ROUNDS, None, RUN)
    good = chosen.out / "best.safetensors"
    from mlkit.core.checkpoint import read_metadata

    tensors = load_file(good)
    tensors["device"] = tensors["device"][:, :9]
    save(path, tensors, read_metadata(good))
    with pytest.raises(CheckpointError, match="is damaged"):
        open_trained(path)
