"""`mlkit check pretrain`: are these videos usable?"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...core.errors import DataError
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.video import open_video
from .config import CheckConfig
from .listing import SHOWN, open_set


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Decode every video once: sizes, lengths, rates, classes, broken files.

    Raises `DataError` when there are no videos or none can be read.
    """
    progress = progress or Silent()
    videos = open_set(config.videos)
    lengths, sizes, rates, broken = [], Counter[str](), Counter[str](), {}
    with progress.task("decoding", len(videos)) as task:
        for path, name in zip(videos.paths, videos.names, strict=True):
            try:
                video = open_video(path, config.picture_fps)
                lengths.append(sum(1 for _ in video))
                sizes[f"{video.width}x{video.height}"] += 1
                rates[f"{video.fps:.4g}"] += 1
            except DataError as error:
                broken[name] = error.message
            task.advance(1, name)
    if not lengths:
        first = "; ".join(list(broken.values())[:SHOWN])
        raise DataError(f"{config.videos}: no video can be read: {first}")
    span = config.frames * config.stride
    short = sum(length <= span for length in lengths)
    classes = Counter(videos.labels or ())
    rows = [
        ("videos", f"{len(lengths):,} readable, {len(broken):,} broken"),
        ("frames", f"{min(lengths)} to {max(lengths)}, {sum(lengths):,} in all"),
        ("sizes", _common(sizes)),
        ("frames per second", _common(rates)),
        (f"no longer than a clip of {span} frames", f"{short}"),
        ("classes", f"{len(classes)}: {_common(classes)}" if classes else "no labels"),
    ]
    metrics: dict[str, Any] = {
        "videos": len(lengths),
        "broken": len(broken),
        "frames": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "too short": short,
        "sizes": dict(sizes),
        "fps": dict(rates),
        "classes": dict(classes),
    }
    return Result(
        inputs={"videos": str(config.videos)},
        metrics=metrics,
        tables=(Table(str(config.videos), ("", "value"), rows),),
        failures=broken,
    )


def _common(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(SHOWN))
    return shown + (", ..." if len(counts) > SHOWN else "")
