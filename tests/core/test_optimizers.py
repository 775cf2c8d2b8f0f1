from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mlkit.core.optimizers import SparseAndDense, clip_gradients, make_optimizer
from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.runtime import start
from mlkit.core.training import Objective, Run, fit


def test_optimizers_leave_frozen_parameters_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    for name in ("sgd", "adamw"):
        optimizer = make_optimizer(model, TrainOptions(optimizer=name))
        assert optimizer.param_groups[0]["params"] == [model.weight]


class Lookup(Objective):
    """A table and a layer behind it, fitted to targets that depend on the row."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Embedding(50, 4, sparse=sparse), nn.Linear(4, 1))

    def forward(self, batch: Rows) -> dict[str, Tensor]:
        error = self.model(batch.rows)[:, 0] - batch.targets
        return {"loss": error.square().mean()}


class Rows(NamedTuple):
    rows: Tensor
    targets: Tensor


class Table:
    def __len__(self) -> int:
        return 40

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Rows:
        return Rows(indices, indices.float() / 40)


def test_sparse_tables_resume_bit_for_bit_and_leave_other_rows_alone(tmp_path: Path) -> None:
    runtime = start(RunOptions(seed=1, device="cpu"))

    def train(folder: Path, steps: int, resume: bool) -> nn.Module:
        torch.manual_seed(0)
        objective = Lookup(sparse=True)
        options = TrainOptions(
            steps=steps,
            batch_size=8,
            lr=0.05,
            save_every=5,
            optimizer="adamw",
            clip=0.1,
            schedule="constant",
        )
        fit(objective, Table(), options, runtime, method="prune", run=Run(folder, resume))
        return objective.model

    torch.manual_seed(0)
    first = Lookup(sparse=True).model.state_dict()
    whole = train(tmp_path / "whole", 20, False).state_dict()
    train(tmp_path / "cut", 10, False)
    resumed = train(tmp_path / "cut", 20, True).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert torch.equal(whole["0.weight"][40:], first["0.weight"][40:])
    assert not torch.equal(whole["0.weight"][:40], first["0.weight"][:40])


def test_a_sparse_step_is_adam_where_every_row_is_touched() -> None:
    options = TrainOptions(lr=0.1, optimizer="adamw", weight_decay=0.0)
    batch = Rows(torch.arange(50), 100 + torch.arange(50.0))  # gradients far above Adam's epsilon
    models = []
    for sparse in (False, True):
        torch.manual_seed(0)
        objective = Lookup(sparse)
        optimizer = make_optimizer(objective, options)
        assert isinstance(optimizer, SparseAndDense) == sparse
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            objective(batch)["loss"].backward()
            optimizer.step()
        models.append(objective.model.state_dict())
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name])


def test_clipping_counts_sparse_gradients() -> None:
    norms = []
    for sparse in (False, True):
        torch.manual_seed(0)
        objective = Lookup(sparse)
        twice = torch.tensor([3, 3, 7])  # the same row twice: its gradients add before the norm
        objective(Rows(twice, torch.ones(3)))["loss"].backward()
        norms.append(float(clip_gradients(objective.parameters(), 0.5)))
        left = sum(float(p.grad.to_dense().square().sum()) for p in objective.parameters())
        assert left**0.5 == pytest.approx(min(0.5, norms[-1]), rel=1e-4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_parameters_may_learn_at_rates_of_their_own() -> None:
    class Two(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ParameterDict({"slow": torch.zeros(1), "fast": torch.zeros(1)})

        def forward(self, batch: Tensor) -> dict[str, Tensor]:
            return {"loss": self.model["slow"].sum() + self.model["fast"].sum()}

        def rates(self) -> dict[str, float]:
            return {"fast": 10.0}

    class Nothing:
        def __len__(self) -> int:
            return 4

        def fetch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
            return indices

    options = TrainOptions(lr=0.1, schedule="constant", momentum=0, weight_decay=0, batch_size=4)
    objective = Two()
    fitted = fit(
        objective,
        Nothing(),
        options.model_copy(update={"steps": 2}),
        start(RunOptions()),
        method="x",
    )
    assert objective.model["slow"].tolist() == pytest.approx([-0.2])
    assert objective.model["fast"].tolist() == pytest.approx([-2])
    assert fitted.history[-1]["lr"] == pytest.approx(0.1)
