"""Features of whole videos: a network's outputs on clips that lie evenly in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...core.progress import Progress
from ...core.runtime import Runtime
from .config import ClipOptions
from .data import even_clips
from .footage import Footage


def outputs(
    network: nn.Module,
    footage: Sequence[Footage],
    clip: ClipOptions,
    views: int,
    crops: int,
    batch: int,
    runtime: Runtime,
    progress: Progress,
) -> Tensor:
    """Return what `network` makes of every clip, (N, views * crops, D) float32 on the CPU."""
    network = network.to(runtime.device).eval()
    found: list[Tensor] = []
    count = views * (1 if clip.squash else crops)
    with torch.inference_mode(), progress.task("describing videos", len(footage)) as task:
        waiting: list[Tensor] = []
        for clips in _each(footage, clip, views, crops):
            waiting.append(clips)
            task.advance()
            if len(waiting) * count >= batch:
                found.append(_forward(network, waiting, runtime))
                waiting = []
        if waiting:
            found.append(_forward(network, waiting, runtime))
    every = torch.cat(found)
    return every.view(len(footage), count, -1).clone()


def _each(
    footage: Sequence[Footage], clip: ClipOptions, views: int, crops: int
) -> Iterator[Tensor]:
    for item in footage:
        yield even_clips(item, clip, views, crops)


def _forward(network: nn.Module, clips: list[Tensor], runtime: Runtime) -> Tensor:
    with runtime.autocast():
        return network(torch.cat(clips).to(runtime.device)).float().cpu()
