"""Update rules of the training loop: dense, and row by row for large tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .options import TrainOptions


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that require gradients.

    Tables with sparse gradients (`nn.Embedding(sparse=True)`) get Adam on the rows that a step
    touches, whatever `options.optimizer` says.
    """
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
    sparse = {id(table) for table in tables}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in sparse]
    if tables:
        return SparseAndDense(tables, parameters, options)
    return _dense_optimizer(parameters, options)


def _dense_optimizer(parameters: list[nn.Parameter], options: TrainOptions) -> Any:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, options.lr, options.momentum, weight_decay=options.weight_decay
        )
    decay = options.weight_decay
    # One kernel in the place of ten: several times faster where there are many parameters.
    return torch.optim.AdamW(parameters, options.lr, weight_decay=decay, fused=True)


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `most`; return it as it was."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            gradients.append(_values(parameter.grad))
    norm = nn.utils.get_total_norm(gradients)
    if math.isfinite(most):
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp_max(1.0))
    return norm


def _values(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient


class SparseAndDense(torch.optim.Optimizer):
    """Two optimizers in the place of one: SparseAdam for tables, the chosen one for the rest.

    SparseAdam leaves rows and moments that a step does not touch as they are, so its cost is
    that of the touched rows; the moments of rare rows therefore decay more slowly than Adam's.
    """

    def __init__(
        self, tables: list[Tensor], rest: list[nn.Parameter], options: TrainOptions
    ) -> None:
        self.parts = [torch.optim.SparseAdam(tables, options.lr)]
        if rest:
            self.parts.append(_dense_optimizer(rest, options))
        super().__init__([*tables, *rest], {})
        # The same group objects, so that the loop's learning rate reaches both.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        """Take one step with both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both, under "parts"."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned. Raises `ValueError` when it does not fit."""
        if len(state_dict.get("parts", ())) != len(self.parts):
            raise ValueError("the stored optimizer is of another kind")
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
