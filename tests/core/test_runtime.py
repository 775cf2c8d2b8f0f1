from __future__ import annotations

import pytest
import torch

from mlkit.core.errors import DeviceError
from mlkit.core.options import RunOptions
from mlkit.core.runtime import memory_errors, start, stream


def test_a_missing_device_says_so() -> None:
    with pytest.raises(DeviceError, match="cuda:77"):
        start(RunOptions(device="cuda:77"))


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(DeviceError, match="fp16"):
        start(RunOptions(device="cpu", precision="fp16"))


def test_streams_depend_on_seed_and_keys_alone() -> None:
    def draw(*keys: int) -> float:
        return float(torch.rand((), generator=stream(*keys)))

    torch.rand(3)
    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(0, 1, 2), draw(0, 2, 1), draw(1, 1, 2), draw(0, 1)}) == 4


def test_memory_errors_become_advice() -> None:
    with pytest.raises(DeviceError) as caught, memory_errors("halve it"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert caught.value.hint == "halve it"
    with pytest.raises(RuntimeError, match="other"), memory_errors("halve it"):
        raise RuntimeError("other")
