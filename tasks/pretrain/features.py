"""Features of videos as a file, and read back from it."""

from __future__ import annotations

import io
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.files import check_writable, write_bytes
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import Runtime, start
from .apply import read_videos
from .checkpoint import Trained, open_trained, part
from .config import BackboneOptions, ClipOptions, FeaturesConfig, ReadOptions, ViewsOptions
from .describe import outputs
from .listing import VideoSet, open_set

STREAM = Path("-")
RESERVED = ("features", "views", "paths")
MAX_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Described:
    """Features of videos: views (N, V, D) float32, and what the columns of their list say."""

    views: Tensor
    names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def features(self) -> Tensor:
        """The mean over the views, (N, D)."""
        return self.views.mean(1)


def open_for(config: Any, runtime: Runtime, weights: Path | None = None) -> Trained:
    """Return the network that a command's options name (or `weights`, in their place)."""
    backbone, clip = part(config, BackboneOptions), part(config, ClipOptions)
    read = part(config, ReadOptions)
    path = weights or config.weights
    return open_trained(
        path, backbone, clip, read, runtime.device, config.random_init and weights is None
    )


def describe_videos(
    trained: Trained, videos: VideoSet, config: Any, runtime: Runtime, progress: Progress
) -> Described:
    """Return the features of videos; frames are kept in --cache, else for this run alone."""
    config = config.model_copy(update=trained.options())
    views = part(config, ViewsOptions)
    with tempfile.TemporaryDirectory(prefix="mlkit-frames-") as folder:
        found = read_videos(videos, config, Path(folder), runtime, progress)
        every = outputs(
            trained.network, found.footage, trained.clip, views.views, int(views.crops),
            views.batch_size, runtime, progress,
        )  # fmt: skip
    return Described(every, found.videos.names, dict(found.videos.columns), found.broken)


def export_features(
    config: FeaturesConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write the features of videos as .npz.

    Raises `DataError` for unusable videos, `CheckpointError` for weights that do not fit,
    `UsageError` for those of a classifier.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    if config.out != STREAM:
        check_writable(config.out, config.overwrite)
    trained = open_for(config, runtime)
    if trained.classes:
        raise UsageError(f"--weights {config.weights}: is a classifier", "give an encoder")
    found = describe_videos(trained, open_set(config.videos), config, runtime, progress)
    data = pack(found)
    if config.out != STREAM:
        write_bytes(config.out, data)
    count, views, dim = found.views.shape
    return Result(
        inputs={"videos": str(config.videos)},
        outputs={} if config.out == STREAM else {"features": str(config.out)},
        metrics={"videos": count, "views": views, "dim": dim},
        failures=found.broken,
        notes=(f"{count:,} videos, {views} views of {dim} features each",),
        stream=data if config.out == STREAM else None,
    )


def pack(found: Described) -> bytes:
    """Return the .npz: features (N, D), views (N, V, D), paths, and each column of the list."""
    columns = {
        "labels" if name == "label" else name: np.array(values)
        for name, values in found.columns.items()
        if name not in RESERVED
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        features=found.features.numpy(),
        views=found.views.numpy(),
        paths=np.array(found.names),
        **columns,
    )
    return buffer.getvalue()


def unpack(path: Path) -> Described:
    """Return what `pack` made. Raises `DataError` when something is missing or does not fit."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(item.file_size for item in arrays.zip.infolist()) > MAX_BYTES:
                raise DataError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB")
            held = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path} is not a readable .npz ({error})") from error
    features = held.get("views", held.get("features", np.zeros(0))[:, None] if "features" in held
                        else np.zeros(0))  # fmt: skip
    if features.ndim != 3 or not np.isfinite(features).all():
        raise DataError(
            f"{path} holds no finite features (N, D) or views (N, V, D)",
            "make it with mlkit data video-features",
        )
    count = len(features)
    names = held.get("paths", np.arange(count).astype(str))
    columns = {
        "label" if name == "labels" else name: tuple(str(value) for value in values)
        for name, values in held.items()
        if name not in RESERVED and values.shape == (count,)
    }
    views = torch.from_numpy(features.astype(np.float32))
    return Described(views, tuple(str(name) for name in names), columns)
