"""Update rules: which optimizer serves a model's parameters, and what comes before its step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .options import TrainOptions


def make_optimizer(
    model: nn.Module, options: TrainOptions, rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that require gradients.

    `rates` are an objective's `rates()`: parameters with the same factor form a group, whose
    "rate" is the factor. Tables with sparse gradients (`nn.Embedding(sparse=True)`) get Adam on
    the rows that a step touches, whatever `options.optimizer` says.
    """
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
    sparse = {id(table) for table in tables}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in sparse:
            factors = [rate for word, rate in (rates or {}).items() if word in name]
            groups.setdefault(math.prod(factors), []).append(parameter)
    dense = [{"params": parameters, "rate": rate} for rate, parameters in groups.items()]
    return SparseAndDense(tables, dense, options) if tables else _dense_optimizer(dense, options)


def _dense_optimizer(groups: list[dict[str, Any]], options: TrainOptions) -> torch.optim.Optimizer:
    decay = options.weight_decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, options.lr, options.momentum, weight_decay=decay)
    # One kernel in the place of ten: several times faster where there are many parameters.
    return torch.optim.AdamW(groups, options.lr, weight_decay=decay, fused=True)


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
        self, tables: list[Tensor], groups: list[dict[str, Any]], options: TrainOptions
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.SparseAdam([{"params": tables, "rate": 1.0}], options.lr)
        ]
        if groups:
            self.parts.append(_dense_optimizer(groups, options))
        super().__init__([*tables, *(p for group in groups for p in group["params"])], {})
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
