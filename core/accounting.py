"""What a model costs: parameters, multiply-adds, bytes and latency."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

Module = TypeVar("Module", bound="nn.Module")


@dataclass(frozen=True)
class Latency:
    """Seconds per call: median, 10th and 90th percentile over `runs` calls."""

    median_s: float
    p10_s: float
    p90_s: float
    runs: int


def count_parameters(model: nn.Module) -> int:
    """Return the number of learnable and frozen parameters (buffers are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def state_bytes(model: nn.Module) -> int:
    """Return the bytes of all tensors of the state dict: the file size without its header."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def meta_copy(model: Module) -> Module:
    """Return a copy whose tensors have shapes but no memory (device "meta")."""
    import torch

    def empty(tensor: Tensor) -> Tensor:
        bare = tensor.detach().to("meta")
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(bare, tensor.requires_grad)
        return bare

    tensors = (*model.parameters(), *model.buffers())
    # deepcopy takes what the memo holds instead of copying it.
    memo: dict[int, Any] = {id(tensor): empty(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo)


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the multiply-adds of one forward pass on an input of `shape` (with the batch).

    Counts convolutions and matrix products, as the field does; runs on shapes alone.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shadow = meta_copy(model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(*shape, device="meta"))
    return counter.get_total_flops() // 2


def measure_latency(
    models: Sequence[Callable[[Tensor], Any]], example: Tensor, runs: int = 30, warmup: int = 3
) -> list[Latency]:
    """Time each of `models` on `example`, taking turns so that all meet the same machine load."""
    import torch

    def call(model: Callable[[Tensor], Any]) -> float:
        begin = time.perf_counter()
        model(example)
        if example.device.type == "cuda":
            torch.cuda.synchronize(example.device)
        return time.perf_counter() - begin

    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for model in models:
            for _ in range(warmup):
                call(model)
        for _ in range(runs):
            for model, seconds in zip(models, times, strict=True):
                seconds.append(call(model))
    return [_summarise(seconds) for seconds in times]


def _summarise(seconds: list[float]) -> Latency:
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return Latency(statistics.median(seconds), deciles[0], deciles[-1], len(seconds))
