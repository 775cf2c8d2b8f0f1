"""Small sequences and networks for the tests of `track`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlkit.tasks.track.boxes import Array
from mlkit.tasks.track.config import ModelOptions
from mlkit.tasks.track.decoder import Memory
from mlkit.tasks.track.formats import Rows, make_rows, write_truth
from mlkit.tasks.track.losses import Truth
from mlkit.tasks.track.metrics import join
from mlkit.tasks.track.model import ColTrack
from mlkit.tasks.track.queries import TrackQueries

TINY = ModelOptions(
    width=8, dim=32, heads=4, levels=2, encoder_layers=1, decoder_layers=3, encoder_points=2,
    decoder_points=2, ffn=32, queries=6, size=64,
)  # fmt: skip


def tiny_model(seed: int = 0, **changed: object) -> ColTrack:
    """Return an untrained small network whose heads are not zero."""
    torch.manual_seed(seed)
    model = ColTrack(TINY.model_copy(update=changed)).eval()
    for parameter in (
        *model.decoder.bbox_embed.parameters(),
        *model.decoder.class_embed.parameters(),
    ):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def frame_memory(model: ColTrack, seed: int = 0, frames: int = 1) -> Memory:
    """Return the memory of random frames."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return model.encode(torch.rand(frames, 3, 48, 64, generator=generator))


def some_tracks(
    model: ColTrack, histories: list[int], seed: int = 0, boxes: torch.Tensor | None = None
) -> TrackQueries:
    """Return tracks 1, 2, ... that hold so many historical queries each."""
    generator = torch.Generator().manual_seed(seed)
    count, dim, bank = len(histories), model.options.dim, model.options.bank
    tracks = TrackQueries.born(
        torch.randn(count, dim, generator=generator),
        torch.rand(count, 4, generator=generator) * 0.3 + 0.3 if boxes is None else boxes,
        torch.arange(1, count + 1),
        bank,
    )
    tracks.history.copy_(torch.randn(count, bank - 1, dim, generator=generator))
    for row, held in enumerate(histories):
        tracks.held[row, bank - 1 - held :] = True
    return tracks


def some_truth(count: int, seed: int = 0, first: int = 1) -> Truth:
    """Return objects first, first + 1, ... of one class."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=generator) * 0.3 + 0.2
    return Truth(boxes, torch.zeros(count, dtype=torch.int64), torch.arange(first, first + count))


def straight_tracks(frames: int = 12, speed: float = 4.0) -> Rows:
    """Return two objects that move in opposite directions, in different rows."""
    parts = []
    for frame in range(1, frames + 1):
        boxes = [(10 + speed * frame, 5, 14, 20), (80 - speed * frame, 30, 14, 20)]
        parts.append(make_rows([frame] * 2, [1, 2], boxes))
    return join(parts)


COLOURS = np.array([(200, 40, 40), (40, 60, 200), (40, 180, 60), (220, 200, 50)], dtype=np.uint8)


def paint(rows: Rows, frame: int, width: int, height: int) -> Array:
    """Return a grey frame with a coloured rectangle per object."""
    image = np.full((height, width, 3), 110, dtype=np.uint8)
    here = rows.at(frame)
    for identity, (left, top, wide, tall) in zip(here.identity, here.boxes, strict=True):
        x, y = max(0, round(left)), max(0, round(top))
        image[y : max(0, round(top + tall)), x : max(0, round(left + wide))] = COLOURS[identity % 4]
    return image


def write_mot(folder: Path, rows: Rows, size: tuple[int, int] = (96, 64), fps: float = 10) -> Path:
    """Write a MOTChallenge sequence with frames, truth, and detections equal to the truth."""
    last = int(rows.frame.max())
    for part in ("img1", "gt", "det"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for frame in range(1, last + 1):
        Image.fromarray(paint(rows, frame, *size)).save(folder / "img1" / f"{frame:06d}.png")
    (folder / "gt" / "gt.txt").write_bytes(write_truth(rows))
    lines = [
        f"{f},-1,{b[0] + 1:.2f},{b[1] + 1:.2f},{b[2]:.2f},{b[3]:.2f},0.9,-1,-1,-1"
        for f, b in zip(rows.frame, rows.boxes, strict=True)
    ]
    (folder / "det" / "det.txt").write_text("\n".join(lines) + "\n")
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={fps:g}\nseqLength={last}\n"
        f"imWidth={size[0]}\nimHeight={size[1]}\nimExt=.png\n"
    )
    return folder
