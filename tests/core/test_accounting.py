from __future__ import annotations

import torch
from torch import nn

from mlkit.core import accounting


def test_macs_and_parameters_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    assert accounting.count_parameters(model) == 3 * 8 * 9 + 8 + 8 * 2 * 9 + 8 * 5 + 5
    expected = 10 * 12 * (3 * 8 * 9 + 8 * 2 * 9) + 8 * 5
    assert accounting.count_macs(model, (1, 3, 10, 12)) == expected
    assert accounting.count_macs(model, (4, 3, 10, 12)) == 4 * expected


def test_meta_copy_takes_no_memory_and_leaves_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model[0].weight.requires_grad_(False)
    shadow = accounting.meta_copy(model)
    tensors = [*shadow.parameters(), *shadow.buffers()]
    assert all(t.is_meta for t in tensors)
    assert not shadow[0].weight.requires_grad
    assert shadow[0].bias.requires_grad
    assert not any(t.is_meta for t in model.state_dict().values())


def test_latency_takes_turns() -> None:
    order: list[str] = []
    calls = [lambda x: order.append("a"), lambda x: order.append("b")]
    first, second = accounting.measure_latency(calls, torch.zeros(1), runs=4, warmup=1)
    assert order == ["a", "b", *["a", "b"] * 4]
    assert first.runs == second.runs == 4
    assert first.p10_s <= first.median_s <= first.p90_s
