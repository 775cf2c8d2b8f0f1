"""`segment`: time and peak memory of the factorised attention beside the concatenated tensor."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, max_pool3d, relu

from mlkit.tasks.segment.attention import CrossModalAttention
from mlkit.tasks.segment.backbone import spatial_map

# The top level of the paper: 1000 + 1000 + 8 channels, attention of width 512, 500 channels out.
SIZES = {"words 20, 40 x 40": (20, 40), "words 8, 40 x 40": (8, 40), "words 20, 20 x 20": (20, 20)}


def compare() -> list[dict[str, Any]]:
    """Each form and size in a process of its own, so that its peak memory is its own."""
    rows = []
    for name in SIZES:
        for form in ("factorised", "concatenated"):
            code = f"from tests.benchmarks.segment import measure; measure({form!r}, {name!r})"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=False
            )
            found = {"form": form, "size": name}
            if done.returncode == 0:
                rows.append(found | json.loads(done.stdout.splitlines()[-1]))
            else:
                reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
                rows.append(found | {"failed": reason})
    return rows


def measure(form: str, name: str) -> None:
    """Print CPU seconds and peak memory of one sentence, and a checksum of the result."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    count, side = SIZES[name]
    layer = CrossModalAttention(1000, 1000, 8, 0, 512, 500)
    visual = torch.nn.functional.normalize(torch.randn(1, side, side, 1000), dim=-1)
    words = torch.nn.functional.normalize(torch.randn(1, count, 1000), dim=-1)
    place = spatial_map(side, side)
    before = _peak_mb()
    begin = time.process_time()
    with torch.no_grad():
        if form == "factorised":
            real, owner = torch.ones(1, count, dtype=torch.bool), torch.tensor([0])
            found = layer.mean_response(visual, words, place, real, owner)
        else:
            found = concatenated(layer, visual[0], words[0], place)[None]
    seconds = time.process_time() - begin
    print(
        json.dumps(
            {
                "CPU s": round(seconds, 2),
                "peak MB above the start": round(_peak_mb() - before),
                "mean of the result": round(float(found.mean()), 7),
            }
        )
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def concatenated(
    layer: CrossModalAttention, visual: Tensor, words: Tensor, place: Tensor
) -> Tensor:
    """The formulas as they stand: the tensor of all words times all cells, explicit softmax."""
    count, side = len(words), visual.shape[0]
    tokens = torch.cat(
        (
            visual.expand(count, -1, -1, -1),
            words[:, None, None].expand(-1, side, side, -1),
            place.expand(count, -1, -1, -1),
        ),
        -1,
    )

    def mapped(part: torch.nn.Linear) -> Tensor:
        return relu(linear(tokens, part.weight, part.bias))

    def pooled(part: torch.nn.Linear) -> Tensor:
        return max_pool3d(mapped(part).permute(3, 0, 1, 2), 2, 2, ceil_mode=True).flatten(1).T

    queries = mapped(layer.query).flatten(0, 2)
    scores = queries @ pooled(layer.key).T
    attended = relu(layer.output(scores.softmax(-1) @ pooled(layer.value)))
    return (attended.view_as(tokens) + tokens).mean(0)
