"""What several processes under torchrun tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .runtime import Runtime


def process_count() -> int:
    """Return how many processes train together, 1 outside of torchrun."""
    group = torch.distributed
    return group.get_world_size() if group.is_initialized() else 1


def gather_random_states(runtime: Runtime) -> list[dict[str, Tensor]]:
    """Return the random state of every process (of this one alone when there is one)."""
    mine = {"cpu": torch.get_rng_state()}
    if runtime.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(runtime.device)
    if runtime.world_size == 1:
        return [mine]
    gathered: list[Any] = [None] * runtime.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered


def mean_over_processes(values: dict[str, float], runtime: Runtime) -> dict[str, float]:
    """Return the mean of each number over all processes."""
    if runtime.world_size == 1:
        return values
    packed = torch.tensor(list(values.values()), dtype=torch.float64, device=runtime.device)
    torch.distributed.all_reduce(packed)
    means = (packed / runtime.world_size).tolist()
    return dict(zip(values, means, strict=True))


def from_main_process(values: dict[str, float], runtime: Runtime) -> dict[str, float]:
    """Return, in every process, what the main process holds."""
    if runtime.world_size == 1:
        return values
    shared: list[Any] = [values]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back a random state that `gather_random_states` took."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
