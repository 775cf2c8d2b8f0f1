"""The demo on generated videos, and the export of the network to other run times."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.files import check_writable
from ...core.media import contact_sheet, write_image
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from ...core.runtime import start
from .apply import pretrain
from .checkpoint import Ready, open_trained
from .config import (
    BackboneOptions,
    ClipOptions,
    EvalConfig,
    FeaturesConfig,
    PretrainConfig,
    PretrainTraining,
    ReadOptions,
    SpritesConfig,
)
from .features import describe_videos, open_for
from .listing import open_set
from .score import evaluate
from .sprites import make_sprites

VIDEOS, EPOCHS = 96, 12
QUERIES, ANSWERS = 8, 6
CLIP = {"frames": 4, "stride": 4, "size": 32}


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Draw videos of moving shapes, learn from them, and show which videos look alike."""
    check_writable(out / "neighbours.png", overwrite)
    sprites = SpritesConfig(out=out / "sprites", videos=VIDEOS, side=40, overwrite=overwrite)
    table = Path(make_sprites(sprites, progress).outputs["labels"])
    run = out / "run"
    if overwrite:
        for name in ("best.safetensors", "last.safetensors"):
            (run / name).unlink(missing_ok=True)
    config = PretrainConfig(videos=table, out=run, width=0.5, hidden=64, dim=32, **CLIP)
    training = PretrainTraining(epochs=EPOCHS, batch_size=24)
    pretrain(config, training, run_options, progress, "mlkit demo pretrain")
    weights = run / "best.safetensors"
    scored = evaluate(EvalConfig(data=table, weights=weights), run_options, progress)
    control = EvalConfig(data=table, random_init=True, width=0.5, **CLIP)
    random = evaluate(control, run_options, progress)
    _draw_neighbours(out / "neighbours.png", table, weights, run_options, progress)
    gains = {
        name: (random.metrics[name]["value"], scored.metrics[name]["value"])
        for name in ("same video", "linear", "knn")
    }
    notes = [f"{name}: {100 * a:.0f} % -> {100 * b:.0f} %" for name, (a, b) in gains.items()]
    result = Result(
        inputs={"videos": "generated"},
        outputs={"report": str(out / "report.html"), "run": str(run), "videos": str(table)},
        metrics={**scored.metrics, "random": random.metrics},
        tables=scored.tables,
        notes=(
            "untrained -> trained on these videos, which had no labels then:",
            *notes,
            "so few steps show how the tool works, hardly what the method can do",
        ),
    )
    write_report(
        out / "report.html",
        "mlkit demo pretrain",
        result,
        settings={**config.to_dict(), **training.to_dict()},
        command="mlkit demo pretrain",
        pictures={"A video, and those nearest to it": out / "neighbours.png"},
    )
    return result


def _draw_neighbours(
    path: Path, table: Path, weights: Path, run_options: RunOptions, progress: Progress
) -> None:
    """Draw the middle frames of some videos, each row with the nearest others behind it."""
    runtime = start(run_options)
    config = FeaturesConfig(videos=table, weights=weights)
    videos = open_set(table)
    found = describe_videos(open_for(config, runtime), videos, config, runtime, progress)
    z = F.normalize(found.features, dim=1)
    nearest = (z @ z.T).fill_diagonal_(2).topk(ANSWERS, 1).indices[:QUERIES]
    frames = [_middle(videos.paths[i]) for i in nearest.flatten().tolist()]
    write_image(path, contact_sheet(torch.stack(frames), columns=ANSWERS))


def _middle(path: Path) -> torch.Tensor:
    import numpy as np

    every = np.load(path, mmap_mode="r", allow_pickle=False)
    frame = torch.from_numpy(np.array(every[len(every) // 2])).permute(2, 0, 1).float() / 255
    return F.interpolate(frame[None], scale_factor=2)[0]


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the network: clips of values 0..255 (N, T, S, S, 3) float32 -> (N, D) or (N, K)."""
    if factory is not None:
        raise UsageError("--factory: the networks of pretrain need none")
    trained = open_trained(file, BackboneOptions(), ClipOptions(), ReadOptions())
    clip = trained.clip
    generator = torch.Generator().manual_seed(0)
    example = 255 * torch.rand(2, clip.frames, clip.size, clip.size, 3, generator=generator)
    difference = export_network(Ready(trained.network).eval(), example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(f"agrees with the original to {difference:.1e} of the largest output",),
    )
