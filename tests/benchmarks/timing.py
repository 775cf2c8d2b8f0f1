"""How the benchmarks take the time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(function: Callable[[], Any], runs: int = 3) -> float:
    """Return the smallest CPU time of some calls: the machine may be busy with other work."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)
