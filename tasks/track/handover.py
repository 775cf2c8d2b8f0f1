"""The demo on generated video, and the export of the detector to other run times."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from ...core.export import export_network
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from .apply import track
from .checkpoint import open_trained
from .config import EvalConfig, SynthConfig, TrackConfig
from .drawing import draw_sheet
from .formats import read_results
from .geometry import to_box
from .model import ColTrack
from .score import evaluate
from .sequence import open_sequence
from .synth import synthesise

EVERY = "1,3,6,10,15"
FRAMES = 120


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Generate a video, track it at several frame rates beside the baselines; a report in `out`."""
    made = synthesise(
        SynthConfig(out=out / "videos", videos=1, frames=FRAMES, overwrite=True, seed=7), progress
    )
    sequence = out / "videos" / "synth-0001"
    tracked = track(
        TrackConfig(input=sequence, out=out / "tracks.txt", video=out / "tracks.mp4", every=3,
                    det="gt", overwrite=True),
        run_options, progress,
    )  # fmt: skip
    plot = out / "rates.png"
    methods = "coltrack,iou,sort,histogram"
    config = EvalConfig(data=sequence, every=EVERY, methods=methods, det="gt", plot=plot)
    scored = evaluate(config, run_options, progress)
    info = open_sequence(sequence)
    sheet = out / "frames.png"
    draw_sheet(sheet, info, list(range(0, len(info), 24))[:6], read_results(out / "tracks.txt"))
    result = Result(
        inputs={"data": "generated"},
        outputs={"report": str(out / "report.html"), "video": str(out / "tracks.mp4")},
        metrics={"synth": made.metrics, "track": tracked.metrics, **scored.metrics},
        tables=(*tracked.tables, *scored.tables),
        notes=("All trackers are given perfect boxes; the embedded network never saw such video.",),
    )
    write_report(
        out / "report.html",
        "mlkit demo track",
        result,
        settings={"frames": FRAMES, "every": EVERY},
        command="mlkit demo track",
        pictures={"Tracks": sheet, "Trackers on perfect boxes against the frame rate": plot},
    )
    return result


class _Detector(nn.Module):
    """Backbone, encoder and proposals: the part that finds objects in single frames."""

    def __init__(self, model: ColTrack) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into boxes and probabilities (B, N, 4 + C)."""
        memory = self.model.encode(images)
        found = self.model.proposal_head(
            memory.tokens, memory.shapes, memory.extent, memory.padding
        )
        return torch.cat((to_box(found.anchors), found.logits.sigmoid()), dim=-1)


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the detector of the network: images (B, 3, H, W) to proposals (B, N, 4 + C).

    Tracks live in Python. Raises `UsageError` for networks that start at given boxes.
    """
    trained = open_trained(file)
    if trained.given:
        raise UsageError(f"{file} starts at given boxes: there is no detector to export")
    size = trained.options.size
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, 3, round(size * 9 / 16), size, generator=generator)
    difference = export_network(_Detector(trained.model), example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(
            f"agrees with the original to {difference:.1e} of the largest output; takes RGB images "
            f"in [0, 1], {example.shape[3]} x {example.shape[2]}; gives (cx, cy, w, h, "
            "probabilities) of every token, of which the best are objects",
        ),
    )
