"""Speed of `track`: parts of the tracker, masks and banks, baselines; ours beside the plain way."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.track.checkpoint import Trained
from mlkit.tasks.track.config import ModelOptions, PostOptions, SynthConfig
from mlkit.tasks.track.follow import follow_boxes, follow_queries
from mlkit.tasks.track.model import ColTrack
from mlkit.tasks.track.queries import TrackQueries, attention_mask
from mlkit.tasks.track.sequence import open_sequence
from mlkit.tasks.track.synth import synthesise

TRACKS, BANK, DETECTS, DIM = 60, 3, 300, 256


def compare() -> list[dict[str, Any]]:
    return [*masks(), *banks(), *parts()]


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return CPU seconds per call, the best of three runs."""
    work()
    found = []
    for _ in range(3):
        begin = time.process_time()
        for _ in range(repeats):
            work()
        found.append((time.process_time() - begin) / repeats)
    return min(found)


def naive_mask(detects: int, owners: list[int]) -> Tensor:
    """Block one pair after the other."""
    total = detects + len(owners)
    blocked = torch.zeros(total, total, dtype=torch.bool)
    for i, one in enumerate(owners):
        for j, two in enumerate(owners):
            if one == two and i != j:
                blocked[detects + i, detects + j] = True
    return blocked


def masks() -> list[dict[str, Any]]:
    owners = [*range(TRACKS), *(i for i in range(TRACKS) for _ in range(BANK - 1))]
    track, none = torch.tensor(owners), torch.zeros(0, dtype=torch.int64)
    assert torch.equal(attention_mask(none, DETECTS, track), naive_mask(DETECTS, owners))
    ours = seconds(lambda: attention_mask(none, DETECTS, track), 200)
    plain = seconds(lambda: naive_mask(DETECTS, owners), 1)
    return [row("blocking mask", ours, "pair by pair", plain)]


def banks() -> list[dict[str, Any]]:
    content, boxes = torch.randn(TRACKS, DIM), torch.rand(TRACKS, 4)
    tracks = TrackQueries.born(content, boxes, torch.arange(TRACKS), BANK)
    for _ in range(BANK):
        tracks = tracks.advance(content, boxes)
    queues = [deque([row for _ in range(BANK)], maxlen=BANK) for row in content]

    def ours() -> Tensor:
        moved = tracks.advance(content, boxes)
        return moved.history[moved.held]

    def plain() -> Tensor:
        for queue, fresh in zip(queues, content, strict=True):
            queue.append(fresh)
        return torch.stack([old for queue in queues for old in list(queue)[:-1]])

    return [row("banks of a frame", seconds(ours, 200), "a deque per track", seconds(plain, 200))]


def row(name: str, ours: float, peer: str, theirs: float) -> dict[str, Any]:
    return {
        "what": name,
        "ours_ms": round(1e3 * ours, 4),
        "peer": peer,
        "peer_ms": round(1e3 * theirs, 4),
        "times": round(theirs / ours, 1),
    }


def parts() -> list[dict[str, Any]]:
    """Milliseconds per frame of reading, encoding and decoding, and of the baselines."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        synthesise(SynthConfig(out=Path(folder), videos=1, frames=64))
        made = 64 / (time.process_time() - begin)
        rows.append({"what": "generated video 256x144", "frames_per_cpu_second": round(made, 1)})
        info = open_sequence(Path(folder) / "synth-0001")
        places = list(range(len(info)))
        torch.manual_seed(0)
        trained = Trained("", ColTrack(ModelOptions()).eval())
        runtime = start(RunOptions(device="cpu"))
        found = follow_queries(trained, info, places, PostOptions(), runtime)
        for name, value in found.seconds.items():
            rows.append(
                {"what": f"coltrack {name}", "ms_per_frame": round(1e3 * value / len(info), 2)}
            )
        boxes = info.truth().counted()
        for method in ("iou", "sort", "byte", "histogram"):
            took = follow_boxes(method, info, places, PostOptions(), boxes).seconds  # type: ignore[arg-type]
            value = float(np.sum(list(took.values())))
            rows.append({"what": method, "ms_per_frame": round(1e3 * value / len(info), 2)})
    return rows
