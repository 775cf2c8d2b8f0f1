"""How benchmarks are called, and how they take the time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any


def cpu_seconds(function: Callable[[], Any], runs: int = 3) -> float:
    """Return the smallest CPU time of some calls: the machine may be busy with other work."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def measure(target: str) -> list[dict[str, Any]]:
    """Return the rows of the benchmark "module:function"."""
    module, _, function = target.partition(":")
    rows: list[dict[str, Any]] = getattr(import_module(f"tests.benchmarks.{module}"), function)()
    return rows
