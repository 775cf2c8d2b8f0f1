from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.tasks.recommend import fit
from mlkit.tasks.recommend.checkpoint import load, open_trained
from mlkit.tasks.recommend.config import RecommendTrainOptions, TrainConfig
from mlkit.tasks.recommend.score import batches_of_interests

from .helpers import small_log

RUN = RunOptions(device="cpu", seed=3)
STEPS = RecommendTrainOptions(steps=12, save_every=4, batch_size=32)


def config(folder: Path, out: str, **options: Any) -> TrainConfig:
    log = folder / "log.csv"
    if not log.exists():
        small_log(folder)
    values = {"dim": 8, "max_history": 8, **options}
    return TrainConfig(log=log, items=folder / "items.csv", out=folder / out, **values)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def assert_same_file(one: Path, two: Path) -> None:
    a, b = tensors(one), tensors(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", [{}, {"variant": "mind"}, {"sparse": "on"}])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    whole = config(tmp_path, "whole", **options)
    fit.train(whole, STEPS, RUN)
    cut = config(tmp_path, "cut", **options)
    real, calls = fit.validate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(fit, "validate", interrupted)
    with pytest.raises(InterruptedRun):
        fit.train(cut, STEPS, RUN)
    monkeypatch.setattr(fit, "validate", real)
    fit.train(cut.model_copy(update={"resume": cut.out}), STEPS, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_file(whole.out / name, cut.out / name)
    assert (whole.out / "metrics.jsonl").read_text() == (cut.out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("variant", ["sa", "dr", "mind", "dnn", "gru4rec", "popular"])
def test_every_variant_trains_saves_and_loads_the_same(tmp_path: Path, variant: str) -> None:
    chosen = config(tmp_path, "run", variant=variant, valid_share=0.2)
    result = fit.train(chosen, STEPS, RUN)
    assert set(result.metrics) >= {variant, "MostPopular"}
    assert (chosen.out / "report.html").exists()
    trained = open_trained(chosen.out / "best.safetensors")
    assert trained.items.titles is not None
    assert trained.items.names[0] == ""
    model = load(chosen.out / "best.safetensors")
    histories = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]])
    with torch.no_grad():
        assert torch.equal(model(histories), trained.model(histories))


def test_the_best_model_is_the_one_that_validation_chose(tmp_path: Path) -> None:
    chosen = config(tmp_path, "run", valid_share=0.2)
    options = STEPS.model_copy(update={"steps": 60, "save_every": 10, "lr": 0.01})
    result = fit.train(chosen, options, RUN)
    trained = open_trained(chosen.out / "best.safetensors")
    best = trained.content["metrics"]
    assert best["score"] == pytest.approx(result.metrics["sa"]["recall@50"])
    assert best["step"] == result.metrics["best_step"]
    log = (chosen.out / "metrics.jsonl").read_text()
    assert log.count("\n") == 6
    assert '"cosine"' in log


def test_presets_fill_only_what_was_not_given() -> None:
    plain = fit.resolve(RecommendTrainOptions(), "paper", "dr")
    assert (plain.steps, plain.save_every, plain.patience, plain.lr) == (10**6, 1000, 50, 5e-3)
    given = fit.resolve(RecommendTrainOptions(steps=7, lr=0.5), "paper", "sa")
    assert (given.steps, given.patience, given.lr) == (7, 50, 0.5)
    assert fit.resolve(RecommendTrainOptions(epochs=3), "quick", "sa").steps == 0
    rates = [fit.resolve(RecommendTrainOptions(), "quick", v).lr for v in ("sa", "dr")]
    assert rates == [3e-3, 5e-3]


def test_the_same_seed_gives_the_same_curve(tmp_path: Path) -> None:
    curves = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        chosen = config(tmp_path, name)
        fit.train(chosen, STEPS, RunOptions(device="cpu", seed=seed))
        curves.append((chosen.out / "metrics.jsonl").read_text())
    assert curves[0] == curves[1] != curves[2]


def test_runs_are_not_overwritten(tmp_path: Path) -> None:
    chosen = config(tmp_path, "run")
    fit.train(chosen, STEPS, RUN, Silent())
    with pytest.raises(UsageError, match="holds a run already"):
        fit.train(chosen, STEPS, RUN)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(path, {"counts": torch.ones(3)}, Metadata("recommend", "model", {"model": {}}))
    with pytest.raises(CheckpointError, match="lacks or distorts"):
        open_trained(path)
    chosen = config(tmp_path, "run")
    fit.train(chosen, STEPS, RUN)
    found = tensors(chosen.out / "best.safetensors")
    content = open_trained(chosen.out / "best.safetensors").content
    found["names"] = found["names"][:20]
    save(path, found, Metadata("recommend", "model", content))
    with pytest.raises(CheckpointError, match="is damaged"):
        open_trained(path)


def test_histories_longer_than_the_model_looks_at(tmp_path: Path) -> None:
    from mlkit.tasks.recommend.data import from_lists

    chosen = config(tmp_path, "run", max_history=3)
    fit.train(chosen, STEPS, RUN)
    model = load(chosen.out / "best.safetensors")
    long, short = from_lists([[9, 8, 1, 2, 3]]), from_lists([[1, 2, 3]])
    found = [next(batches_of_interests(model, part, 3, 8))[1] for part in (long, short)]
    assert torch.equal(*found)
