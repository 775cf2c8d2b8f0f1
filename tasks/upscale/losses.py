"""What is minimised in training: absolute error on pairs, and the meta-objective over blurs.

Source: Soh et al. 2020, equations 3 to 7.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.distributed import process_count
from ...core.training import Objective
from .model import Network, Weights, apply

StepWeights = Literal["equal", "annealed", "last"]
ANNEALED = 10_000 / 3  # iterations in which a weight would fall from 1 / K to 0
SMALLEST = 0.03  # of 1 / K: what it falls to
RATE_FACTOR = 30.0  # the learned step sizes move this much faster than the weights


class Task(NamedTuple):
    """Tasks of one batch: inputs and targets (tasks, patches, 3, P, P) to adapt on and to judge."""

    support: Tensor
    support_target: Tensor
    query: Tensor
    query_target: Tensor


def step_weights(kind: StepWeights, steps: int, iteration: int) -> Tensor:
    """Return the weights (steps,) of the query losses after each inner step; their sum is 1.

    "equal" is what the published weights were trained with; "annealed" moves them linearly to the
    last step, each of the others keeping 0.03 / K (Antoniou et al. 2019).
    """
    if kind == "last" or steps == 1:
        return torch.tensor([0.0] * (steps - 1) + [1.0])
    share = 1 / steps
    if kind == "equal":
        return torch.full((steps,), share)
    each = max(share - iteration * share / ANNEALED, SMALLEST * share)
    return torch.tensor([each] * (steps - 1) + [1 - (steps - 1) * each])


def inner_losses(
    network: Network, task: Task, steps: int, second_order: bool = True
) -> list[Tensor]:
    """Return the query loss after each of `steps` plain gradient steps on the support patches.

    `task` is a single one, its tensors (patches, 3, P, P). The losses are differentiable in the
    weights and the step sizes; with `second_order` False the inner gradients count as constants.
    """
    weights: Weights = network.weights()
    losses = []
    for step in range(steps):
        loss = _error(weights, task.support, task.support_target)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order)
        weights = {
            name: weight - rate * gradient
            for (name, weight), gradient, rate in zip(
                weights.items(), gradients, network.rates(step), strict=True
            )
        }
        losses.append(_error(weights, task.query, task.query_target))
    return losses


def _error(weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
    return (apply(weights, inputs) - targets).abs().mean()


class MetaObjective(Objective):
    """Mean over tasks of the weighted query losses after the inner steps.

    `tasks` are the tasks of one iteration over all its parts: the schedule of the step weights
    counts them.
    """

    model: Network

    def __init__(
        self,
        model: Network,
        steps: int,
        tasks: int,
        *,
        second_order: bool = True,
        weights: StepWeights = "equal",
        learn_rates: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.steps, self.tasks = steps, tasks
        self.second_order, self.kind = second_order, weights
        model.log_rates.requires_grad_(learn_rates)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    seen: Tensor

    def forward(self, batch: Task) -> dict[str, Tensor]:
        """Return the losses of a batch of tasks."""
        weights = step_weights(self.kind, self.steps, int(self.seen) // self.tasks)
        self.seen += len(batch.support) * process_count()
        losses = torch.stack(
            [
                torch.stack(inner_losses(self.model, Task(*one), self.steps, self.second_order))
                for one in zip(*batch, strict=True)
            ]
        ).mean(0)
        loss = (weights.to(losses) * losses).sum()
        return {"loss": loss, "first": losses[0], "last": losses[-1]}

    def rates(self) -> dict[str, float]:
        """Return how much faster the step sizes learn than the weights."""
        return {"log_rates": RATE_FACTOR}


class PairObjective(Objective):
    """Mean absolute error on (input, target): pre-training, and the baseline without meta."""

    model: Network

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        model.log_rates.requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the loss of inputs and targets (B, 3, P, P)."""
        inputs, targets = batch
        return {"loss": (self.model(inputs) - targets).abs().mean()}
