"""Personalisation: every node fine-tunes its own copy of the weights after federated training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .sums import error_sums

if TYPE_CHECKING:
    from .node import NodeGroup


def fine_tune(
    group: NodeGroup,
    valid_embeddings: Tensor,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed_epoch: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Fine-tune a copy of the weights per node, embeddings fixed, and take the best epoch of each.

    Each node chooses by its own validation error among 0..epochs; the copies never leave it.
    `valid_embeddings` is (n, W, L, e); the shuffles are those of the epochs from `seed_epoch` on.
    Returns the copies (n, P), and the chosen epoch (n,) with the validation sums before and after.
    """
    starts = group.starts["valid"]
    truth = group.truth(starts)
    shared = group.weights.expand(len(group), -1)

    def score(own: Tensor) -> tuple[Tensor, Tensor]:
        sums = error_sums(group.forecast(starts, valid_embeddings, own), truth)
        return sums, sums[..., 0].sum(1) / sums[..., 3].sum(1).clamp_min(1)

    before, best = score(shared)
    kept, chosen, after = shared.clone(), torch.zeros(len(group)), before.clone()
    current, state = shared, None
    for epoch in range(epochs):
        current, state = _epoch(group, current, state, epoch + seed_epoch, batch, lr)
        sums, errors = score(current)
        better = errors < best
        best = errors.where(better, best)
        kept = current.where(better[:, None], kept)
        after = sums.where(better[:, None, None], after)
        chosen = torch.where(better.cpu(), float(epoch + 1), chosen)
    return kept, {"epoch": chosen, "before": before, "after": after}


def _epoch(
    group: NodeGroup, current: Tensor, state: Any, epoch: int, batch: int, lr: float
) -> tuple[Tensor, Any]:
    """Take one epoch with an Adam that lives as long as the fine-tuning."""
    found, states = [], []
    for turn, rows in enumerate(group.turns(batch)):
        own = current[rows].clone().requires_grad_()
        optimizer = torch.optim.Adam([own], lr=lr, fused=True)
        if state is not None:
            optimizer.load_state_dict(state[turn])
        group.epoch(own, optimizer, rows, epoch, batch, 0, 0.0, None)
        found.append(own.detach())
        states.append(optimizer.state_dict())
    return torch.cat(found), states
