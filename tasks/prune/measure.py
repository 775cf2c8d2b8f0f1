"""Before and after: what the model costs, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core import accounting
from ...core.accounting import Latency
from ...core.metrics import Proportion
from ...core.results import Table, human_bytes, human_count
from .backbone import Backbone
from .plan import Cut


@dataclass(frozen=True)
class Costs:
    """Before and after, in this order."""

    parameters: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    latency: tuple[Latency, Latency]
    what: str


def measure_costs(
    backbone: Backbone,
    original: nn.Module,
    pruned: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    runs: int,
) -> Costs:
    """Measure both models; detectors' time and arithmetic are those of the backbone."""
    shape = (1, *shape)
    for model in (original, pruned):  # the repair may have changed the memory layout
        model.to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    roots = [m.get_submodule(backbone.prefix).eval() for m in (original, pruned)]
    example = torch.zeros(shape, device=device)
    before, after = accounting.measure_latency(roots, example, runs)
    return Costs(
        (accounting.count_parameters(original), accounting.count_parameters(pruned)),
        (accounting.count_macs(roots[0], shape), accounting.count_macs(roots[1], shape)),
        (accounting.state_bytes(original), accounting.state_bytes(pruned)),
        (before, after),
        "model" if backbone.is_whole_model else "backbone",
    )


def metrics_of(
    costs: Costs,
    scores: dict[str, Proportion],
    cuts: Sequence[Cut],
    history: Sequence[dict[str, float]],
) -> dict[str, Any]:
    """Return what was measured as plain JSON values."""
    milliseconds = [
        {
            "median": 1e3 * latency.median_s,
            "p10": 1e3 * latency.p10_s,
            "p90": 1e3 * latency.p90_s,
        }
        for latency in costs.latency
    ]
    return {
        "parameters": {"before": costs.parameters[0], "after": costs.parameters[1]},
        "macs": {"before": costs.macs[0], "after": costs.macs[1], "of": costs.what},
        "bytes": {"before": costs.bytes[0], "after": costs.bytes[1]},
        "latency_ms": {"before": milliseconds[0], "after": milliseconds[1], "of": costs.what},
        "channels": {
            "before": sum(cut.before for cut in cuts),
            "after": sum(cut.after for cut in cuts),
        },
        "top1": {
            name: {"value": s.value, "interval": list(s.interval), "images": s.total}
            for name, s in scores.items()
        },
        "repair_loss": -history[-1]["score"] if history else None,
    }


def tables_of(costs: Costs, scores: dict[str, Proportion]) -> tuple[Table, ...]:
    """Return what was measured as tables for people."""

    def row(name: str, values: tuple[float, float], form: Any) -> tuple[str, str, str, str]:
        return name, form(values[0]), form(values[1]), f"{values[1] / values[0]:.3f}"

    def spread(latency: Latency) -> str:
        low, high = 1e3 * latency.p10_s, 1e3 * latency.p90_s
        return f"{1e3 * latency.median_s:.1f} ms [{low:.1f}, {high:.1f}]"

    before, after = costs.latency
    rows = [
        row("parameters", costs.parameters, human_count),
        row(f"multiply-adds ({costs.what})", costs.macs, human_count),
        row("file", costs.bytes, human_bytes),
        (
            f"latency ({costs.what}, batch 1)",
            spread(before),
            spread(after),
            f"{after.median_s / before.median_s:.3f}",
        ),
    ]
    tables = [Table("Cost", ("", "before", "after", "ratio"), rows)]
    if scores:
        accuracy_rows = [(name, str(score)) for name, score in scores.items()]
        tables.append(Table("Top-1 accuracy", ("", "value [95 % interval]"), accuracy_rows))
    return tuple(tables)
