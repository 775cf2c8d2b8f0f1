"""Speed of `track`: parts of the tracker, masks and banks, baselines; ours beside the plain way."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlkit.tasks.track.config import ModelOptions, PostOptions, SynthConfig
from mlkit.tasks.track.follow import follow_boxes
from mlkit.tasks.track.model import ColTrack
from mlkit.tasks.track.queries import TrackQueries, attention_mask
from mlkit.tasks.track.sequence import open_sequence, to_tensor
from mlkit.tasks.track.synth import synthesise

TRACKS, BANK, DETECTS, DIM = 60, 3, 300, 256


def compare() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
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
    """CPU milliseconds per frame of the tracker's parts, and of the baselines; 256 x 144 pixels."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        synthesise(SynthConfig(out=Path(folder), videos=1, frames=64))
        made = 64 / (time.process_time() - begin)
        rows.append({"what": "generated video", "frames_per_cpu_second": round(made, 1)})
        info = open_sequence(Path(folder) / "synth-0001")
        places = list(range(len(info)))
        frames = torch.stack([to_tensor(image, 256) for image in info.read(places[:8])])
        rows.append(per_frame("read and scale", lambda: list(info.read(places[:8])), 8))
        rows += network(frames)
        boxes = info.truth().counted()
        for method in ("iou", "sort", "byte", "histogram"):

            def follow(name: Any = method) -> object:
                return follow_boxes(name, info, places, PostOptions(), boxes)

            rows.append(per_frame(method, follow, len(info)))
    return rows


@torch.no_grad()
def network(frames: Tensor) -> list[dict[str, Any]]:
    """The network of the default size: encoding in batches or alone, decoding with tracks."""
    torch.manual_seed(0)
    model = ColTrack(ModelOptions(size=256)).eval()
    memory = model.encode(frames[:1])
    rows = [
        per_frame("encode, 8 frames at once", lambda: model.encode(frames), 8),
        per_frame("encode, frame by frame", lambda: [model.encode(f[None]) for f in frames], 8),
    ]
    for count in (0, 5, 20):
        tracks = TrackQueries.born(
            torch.randn(count, 128), torch.rand(count, 4) * 0.5, torch.arange(count), BANK
        )
        for _ in range(BANK):
            tracks = tracks.advance(torch.randn(count, 128), tracks.boxes)

        def decode(live: TrackQueries = tracks) -> object:
            return model.decode(memory, live, last_only=True)

        rows.append(per_frame(f"decode, {count} tracks with history", decode, 1))
    return rows


def per_frame(name: str, work: Callable[[], Any], frames: int) -> dict[str, Any]:
    return {"what": name, "cpu_ms_per_frame": round(1e3 * seconds(work, 3) / frames, 2)}
