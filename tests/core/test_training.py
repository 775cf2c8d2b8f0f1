from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlkit.core.errors import CheckpointError, DataError, DivergedError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.runtime import start
from mlkit.core.training import Run, fit, learning_rate

from . import training_script
from .training_script import Points, Regression

SCRIPT = [sys.executable, str(Path(training_script.__file__))]


def state(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*SCRIPT, str(whole), "start"], check=True)
    process = subprocess.Popen([*SCRIPT, str(killed), "start"])
    deadline = time.monotonic() + 120
    while not (killed / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (killed / "final.pt").exists():
        pytest.fail("the run ended before it could be killed")
    subprocess.run([*SCRIPT, str(killed), "resume"], check=True)
    assert_same(state(whole / "final.pt"), state(killed / "final.pt"))
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
    steps = [entry["step"] for entry in log(whole)]
    assert steps == list(range(3, 61, 3))


def test_two_processes_equal_one_at_the_same_global_batch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([*SCRIPT, str(one), "plain"], check=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, SCRIPT[1], str(two), "plain"],
        check=False, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = state(one / "final.pt"), state(two / "final.pt")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)
    losses = [[entry["loss"] for entry in log(folder)] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_ctrl_c_saves_and_resuming_changes_nothing(tmp_path: Path) -> None:
    whole = training_script.run(tmp_path / "whole").state_dict()

    class Interrupting(Points):
        calls = 0

        def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
            self.calls += 1
            if self.calls == 23:
                os.kill(os.getpid(), signal.SIGINT)
            return super().fetch(indices, generator)

    options = TrainOptions(steps=60, batch_size=16, lr=0.05, warmup=5, ema=0.9)
    runtime = start(RunOptions(seed=5, device="cpu"))
    run = Run(tmp_path / "cut")
    with pytest.raises(InterruptedRun, match=r"after step 2[23] of 60.*cut") as caught:
        fit(Regression(), Interrupting(), options, runtime, method="prune", run=run)
    assert "--resume" in caught.value.hint
    again = training_script.run(tmp_path / "cut", resume=True).state_dict()
    assert_same(whole, again)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    alone = training_script.run(tmp_path / "a").state_dict()
    helped = training_script.run(tmp_path / "b", workers=2).state_dict()
    assert_same(alone, helped)


def test_nan_stops_with_the_last_good_state_kept(tmp_path: Path) -> None:
    class Poisoned(Points):
        def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
            inputs, targets = super().fetch(indices, generator)
            if bool((indices == 17).any()) and self.noise == 0.2:
                inputs[0, 0] = math.nan
            return inputs, targets

    runtime = start(RunOptions(device="cpu"))
    run = Run(tmp_path)
    options = TrainOptions(steps=60, batch_size=16, lr=0.01, save_every=1)
    objective = Regression()
    source = Poisoned(noise=0.2)
    with pytest.raises(DivergedError, match=r"diverged at step \d+ .*last\.safetensors") as caught:
        fit(objective, source, options, runtime, method="prune", run=run)
    assert "--lr" in caught.value.hint
    assert all(bool(p.isfinite().all()) for p in objective.parameters())
    source.noise = 0.1  # the data are mended: the run goes on from where it was
    fitted = fit(objective, source, options, runtime, method="prune", run=Run(tmp_path, True))
    assert fitted.steps == 60


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    settings = {"dropout": 0.0, "noise": 0.0, "ema": 0.0}
    whole = training_script.run(tmp_path / "a", **settings).state_dict()
    parts = training_script.run(tmp_path / "b", accumulate=4, **settings).state_dict()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_the_best_weights_are_kept_and_handed_to_save_best() -> None:
    scores = iter([0.1, 0.9, 0.3])
    seen: list[tuple[float, Tensor]] = []
    objective = Regression()

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"score": next(scores)}

    def save_best(model: nn.Module, entry: dict[str, float]) -> None:
        seen.append((entry["score"], model[0].weight.detach().clone()))  # type: ignore[index]

    options = TrainOptions(steps=6, save_every=2, batch_size=16)
    runtime = start(RunOptions(device="cpu"))
    fitted = fit(
        objective,
        Points(),
        options,
        runtime,
        method="prune",
        evaluate=evaluate,
        save_best=save_best,
    )
    assert (fitted.best, fitted.best_step) == (0.9, 4)
    assert [score for score, _ in seen] == [0.1, 0.9]
    assert torch.equal(objective.model[0].weight, seen[-1][1])  # type: ignore[index]


def test_averaged_weights_follow_their_definition() -> None:
    decay, objective = 0.75, Regression(0.0)
    weights: list[Tensor] = []
    saved: list[Tensor] = []

    class Spying(Points):
        """Sees the weights before each step, and so those after the step before."""

        def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
            weights.append(objective.model[0].weight.detach().clone())  # type: ignore[index]
            return super().fetch(indices, generator)

    def evaluate(model: nn.Module) -> dict[str, float]:
        saved.append(model[0].weight.detach().clone())  # type: ignore[index]
        return {}

    options = TrainOptions(steps=5, batch_size=16, ema=decay, save_every=1, lr=0.05)
    runtime = start(RunOptions(device="cpu"))
    fit(objective, Spying(), options, runtime, method="prune", evaluate=evaluate)
    average = weights[1]  # the average starts with the weights after the first step
    for step in range(1, 4):
        average = decay * average + (1 - decay) * weights[step + 1]
        torch.testing.assert_close(saved[step], average)


def test_learning_rate_schedules() -> None:
    options = TrainOptions(lr=1.0, warmup=4, schedule="cosine")
    assert [learning_rate(s, 12, options) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(4, 12, options) == 1.0
    assert learning_rate(8, 12, options) == pytest.approx(0.5)
    step = TrainOptions(lr=1.0, schedule="step", decay_at=0.5)
    assert [learning_rate(s, 4, step) for s in range(4)] == [1.0, 1.0, 0.1, 0.1]
    assert learning_rate(3, 4, TrainOptions(lr=2.0, schedule="constant")) == 2.0
    poly = TrainOptions(lr=2.5e-4, schedule="poly")
    for step in (0, 400_000, 799_999):  # (lr - end) * (1 - step / steps)^0.9 + end
        wanted = (2.5e-4 - 1e-5) * (1 - step / 800_000) ** 0.9 + 1e-5
        assert learning_rate(step, 800_000, poly) == pytest.approx(wanted)


def test_clipping_bounds_the_update() -> None:
    objective = Regression(0.0)
    before = [p.detach().clone() for p in objective.parameters()]
    options = TrainOptions(
        steps=1, batch_size=96, lr=1.0, clip=1e-3, momentum=0, weight_decay=0, schedule="constant"
    )
    runtime = start(RunOptions(device="cpu"))
    fit(objective, Points(), options, runtime, method="prune")
    moved = [
        (a.detach() - b).square().sum() for a, b in zip(objective.parameters(), before, strict=True)
    ]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(1e-3, rel=1e-2)


def test_unusable_requests_are_refused(tmp_path: Path) -> None:
    runtime = start(RunOptions(device="cpu"))
    few = TrainOptions(batch_size=8, accumulate=8)
    with pytest.raises(DataError, match="too few"):
        fit(Regression(), Points(4), few, runtime, method="prune")
    small = TrainOptions(batch_size=4, accumulate=8)
    with pytest.raises(UsageError, match="--batch-size 4 is less than one for each part"):
        fit(Regression(), Points(), small, runtime, method="prune")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        fit(
            Regression(), Points(), TrainOptions(), runtime, method="prune", run=Run(tmp_path, True)
        )
    training_script.run(tmp_path / "r")
    other = Regression()
    other.model = nn.Linear(3, 1)
    with pytest.raises(CheckpointError, match="another network"):
        fit(
            other,
            Points(),
            TrainOptions(),
            runtime,
            method="prune",
            run=Run(tmp_path / "r", True),
        )


def test_limit_uses_the_first_samples() -> None:
    seen: set[int] = set()

    class Spying(Points):
        def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
            seen.update(indices.tolist())
            return super().fetch(indices, generator)

    options = TrainOptions(epochs=1, batch_size=4, limit=8)
    fitted = fit(Regression(), Spying(), options, start(RunOptions(device="cpu")), method="prune")
    assert seen == set(range(8))
    assert fitted.steps == 2


@pytest.mark.parametrize("resume", [False, True])
def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path, resume: bool) -> None:
    scores = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.5, 10: 0.3, 12: 0.9}
    calls: list[int] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        calls.append(2 * len(calls) + 2)
        return {"score": scores[calls[-1]]}

    runtime = start(RunOptions(device="cpu"))
    options = TrainOptions(steps=12, save_every=2, batch_size=16, patience=3)
    run = Run(tmp_path)
    fitted = fit(
        Regression(), Points(), options, runtime, method="prune", run=run, evaluate=evaluate
    )
    assert (fitted.steps, fitted.best, fitted.best_step) == (10, 0.5, 4)
    if resume:
        again = fit(
            Regression(),
            Points(),
            options,
            runtime,
            method="prune",
            run=Run(tmp_path, True),
            evaluate=evaluate,
        )
        assert (again.steps, calls[-1]) == (10, 10)
