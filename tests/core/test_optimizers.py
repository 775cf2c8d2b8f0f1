from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

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


def lars(**options: Any) -> TrainOptions:
    return TrainOptions(optimizer="lars", lr=0.5, **options)


def test_lars_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    options = lars(momentum=0.9, weight_decay=0.01)
    optimizer = make_optimizer(model, options, decay_vectors=False)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        model(torch.randn(5, 4, dtype=torch.float64)).square().sum().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            w, g = before[name], p.grad.clone()
            if w.dim() > 1:
                ratio = 0.001 * w.norm() / (g.norm() + 0.01 * w.norm() + 1e-8)
                g = ratio * (g + 0.01 * w)
            velocity[name] = 0.9 * velocity[name] + g
        optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), before[name] - 0.5 * velocity[name])
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.01]


def test_lars_does_not_mind_the_scale_of_the_loss() -> None:
    moved = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.ones(3, 3))
        holder = nn.Module()
        holder.register_parameter("weight", weight)
        optimizer = make_optimizer(holder, lars(momentum=0.0, weight_decay=0.0))
        (scale * (weight * torch.arange(9.0).view(3, 3)).sum()).backward()
        optimizer.step()
        moved.append(weight.detach() - 1)
    torch.testing.assert_close(*moved)


def test_lars_leaves_a_tensor_of_zeros_to_plain_sgd() -> None:
    holder = nn.Linear(3, 2)
    nn.init.zeros_(holder.weight)
    optimizer = make_optimizer(holder, lars(momentum=0.0, weight_decay=0.0))
    holder(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(holder.weight.detach(), torch.full((2, 3), -0.5))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_biases_and_norms_need_not_decay(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    options = TrainOptions(optimizer=name, weight_decay=0.1)  # type: ignore[arg-type]
    groups = make_optimizer(model, options, decay_vectors=False).param_groups
    held = {group["weight_decay"]: [p.dim() for p in group["params"]] for group in groups}
    assert held == {0.1: [2], 0.0: [1, 1, 1]}
    assert [g["weight_decay"] for g in make_optimizer(model, options).param_groups] == [0.1]


def test_nesterov_is_passed_on() -> None:
    options = TrainOptions(nesterov=True)
    assert make_optimizer(nn.Linear(2, 2), options).defaults["nesterov"] is True
