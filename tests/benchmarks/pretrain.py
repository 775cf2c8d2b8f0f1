"""`pretrain`: steps beside lightly's losses on one network; decoding and augmentation alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from mlkit.core.progress import Silent
from mlkit.core.runtime import stream
from mlkit.core.video import open_video, writing_video
from mlkit.tasks.pretrain.config import (
    AugmentOptions,
    BackboneOptions,
    ClipOptions,
    MethodOptions,
    ReadOptions,
)
from mlkit.tasks.pretrain.data import RandomClips
from mlkit.tasks.pretrain.footage import gather
from mlkit.tasks.pretrain.frameworks import Framework, Length, Views, build
from mlkit.tasks.pretrain.listing import VideoSet

VIDEOS, CLIPS = 32, 2
CLIP = ClipOptions(frames=4, stride=4, size=48)
NETWORK = BackboneOptions(backbone="tiny")
RUNS = 3


def cpu_seconds(functions: list[Callable[[], Any]]) -> list[float]:
    """Return the least CPU time of some calls each, taking turns: the machine may be busy."""
    best = [float("inf")] * len(functions)
    for _ in range(RUNS):
        for i, function in enumerate(functions):
            begin = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - begin)
    return best


def compare() -> list[dict[str, Any]]:
    """Clips per CPU second of training steps, then of decoding, reading and augmenting."""
    return [*_steps(), *_reading()]


def _steps() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(CLIPS, VIDEOS, 3, CLIP.frames, CLIP.size, CLIP.size, generator=generator)
    batch = Views(clips, torch.arange(VIDEOS))
    rows = []
    for method, peer in {"simclr": _simclr, "byol": _byol, "swav": _swav}.items():
        own, theirs = _framework(method), _framework(method)
        seconds = cpu_seconds([lambda f=own: _step(f(batch)["loss"]), peer(theirs, clips)])  # type: ignore[misc]
        per_second = [round(CLIPS * VIDEOS / value, 1) for value in seconds]
        rows.append(
            {"step of": method, "clips/s": per_second[0], "lightly, clips/s": per_second[1]}
        )
    return rows


def _framework(method: str) -> Framework:
    torch.manual_seed(0)
    options = MethodOptions(
        method=method,  # type: ignore[arg-type]
        head_norm=True,
        sync_norm=False,
        teacher_momentum=0.99,
        freeze_prototypes=0,
    )
    return build(NETWORK, options, Length(1000, 100, VIDEOS)).train()


def _step(loss: Tensor) -> None:
    loss.backward()


def _own(framework: Framework, batch: Views) -> Callable[[], None]:
    return lambda: _step(framework(batch)["loss"])


def _simclr(framework: Framework, clips: Tensor) -> Callable[[], None]:
    criterion = NTXentLoss(temperature=0.1)
    return lambda: _step(criterion(*(framework.model(clip) for clip in clips)))


def _byol(framework: Any, clips: Tensor) -> Callable[[], None]:
    from lightly.models.utils import update_momentum

    criterion = NegativeCosineSimilarity()

    def step() -> None:
        momentum = cosine_schedule(1, 1000, 0.99, 1)
        update_momentum(framework.model, framework.teacher, m=momentum)
        with torch.no_grad():
            targets = [framework.teacher(clip) for clip in clips]
        predictions = [framework.predictor(framework.model(clip)) for clip in clips]
        losses = [criterion(predictions[i], targets[1 - i]) for i in range(2)]
        _step(sum(losses) / 2)  # type: ignore[arg-type]

    return step


def _swav(framework: Any, clips: Tensor) -> Callable[[], None]:
    criterion = SwaVLoss(temperature=0.1)

    def step() -> None:
        with torch.no_grad():
            weight = framework.prototypes.weight
            weight.copy_(nn.functional.normalize(weight, dim=1))
        z = [nn.functional.normalize(framework.model(clip), dim=1) for clip in clips]
        _step(criterion([framework.prototypes(part) for part in z], []))

    return step


def _fetch(source: RandomClips) -> Callable[[], Views]:
    return lambda: source.fetch(torch.arange(VIDEOS), stream(0, 1))


def _reading() -> list[dict[str, Any]]:
    """Decode 320 x 240 H.264, then take clips out of the cached frames."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = random.integers(0, 255, (60, 30, 40, 3), dtype=np.uint8)
        frames = frames.repeat(8, 1).repeat(8, 2)
        with writing_video(folder / "v.mp4", 30) as writer:
            for frame in frames:
                writer.add(frame)
        (decode,) = cpu_seconds([lambda: sum(1 for _ in open_video(folder / "v.mp4"))])
        videos = VideoSet((folder / "v.mp4",), ("v.mp4",))
        footage = gather(videos, ReadOptions(), 56, folder / "c", Silent()).footage * VIDEOS
        plain = AugmentOptions(colour=0, grey=0, blur=0, flip=False)
        sources = [
            RandomClips(footage, CLIP, option, CLIPS) for option in (plain, AugmentOptions())
        ]
        every = torch.arange(VIDEOS)
        fetches = [lambda s=source: s.fetch(every, stream(0, 1)) for source in sources]  # type: ignore[misc]
        read, both = cpu_seconds(fetches)
    count = CLIPS * VIDEOS
    return [
        {"decoding 320 x 240, frames/s": round(len(frames) / decode)},
        {"cached clips without augmentation, clips/s": round(count / read)},
        {"with augmentation, clips/s": round(count / both)},
    ]
