"""Update rules: which optimizer serves a model's parameters, and what comes before its step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .options import TrainOptions


def make_optimizer(
    model: nn.Module,
    options: TrainOptions,
    rates: Mapping[str, float] | None = None,
    decay_vectors: bool = True,
) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that require gradients.

    `rates` are an objective's `rates()`: parameters with the same factor form a group, whose
    "rate" is the factor. Without `decay_vectors` biases and the weights of norms form groups of
    their own that do not decay. Tables with sparse gradients (`nn.Embedding(sparse=True)`) get
    Adam on the rows that a step touches, whatever `options.optimizer` says.
    """
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
    sparse = {id(table) for table in tables}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in sparse:
            factors = [rate for word, rate in (rates or {}).items() if word in name]
            decays = decay_vectors or parameter.dim() > 1
            groups.setdefault((math.prod(factors), decays), []).append(parameter)
    dense: list[dict[str, Any]] = [
        {"params": parameters, "rate": rate, **({} if decays else {"weight_decay": 0.0})}
        for (rate, decays), parameters in groups.items()
    ]
    return SparseAndDense(tables, dense, options) if tables else _dense_optimizer(dense, options)


def _dense_optimizer(groups: list[dict[str, Any]], options: TrainOptions) -> torch.optim.Optimizer:
    decay = options.weight_decay
    if options.optimizer != "adamw":
        rule = LARS if options.optimizer == "lars" else torch.optim.SGD
        nesterov = options.nesterov and options.momentum > 0
        return rule(groups, options.lr, options.momentum, weight_decay=decay, nesterov=nesterov)
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


class LARS(torch.optim.SGD):
    """SGD whose step on a weight tensor is proportional to the tensor's own norm.

    For tensors of more than one dimension g becomes s (g + wd w) with the trust ratio
    s = 0.001 |w| / (|g| + wd |w| + 1e-8), 1 where a norm is zero; then momentum follows. Biases
    and norms get plain SGD. You, Gitman, Ginsburg, arXiv 1708.03888.
    """

    TRUST = 1e-3

    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            self._scale(group)
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay

    @torch.no_grad()
    def _scale(self, group: dict[str, Any]) -> None:
        """Decay and scale the gradients of a group in place, and leave no decay for SGD."""
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        held = [p for p in group["params"] if p.grad is not None]
        if decay:
            torch._foreach_add_([p.grad for p in held], held, alpha=decay)
        weights = [p for p in held if p.dim() > 1]
        if not weights:
            return
        gradients = [p.grad for p in weights if p.grad is not None]
        w = torch.stack(torch._foreach_norm(weights))
        # |g| of the bare gradient: the decay has been added above.
        bare = torch._foreach_sub(gradients, weights, alpha=decay) if decay else gradients
        g = torch.stack(torch._foreach_norm(bare))
        ratio = self.TRUST * w / (g + decay * w + 1e-8)
        ratio = torch.where((w > 0) & (g > 0), ratio, torch.ones_like(ratio))
        torch._foreach_mul_(gradients, list(ratio.unbind()))
