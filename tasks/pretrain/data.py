"""Batches of clips: random ones to learn from, evenly placed ones to describe a video by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .augment import augment, draw_place, normalise, resized
from .config import AugmentOptions, ClipOptions
from .footage import Footage
from .frameworks import Views
from .sampling import clip_frames, draw_starts, even_starts

Box = tuple[int, int, int, int]


def short_side(short: int, size: int) -> int:
    """Return the short side of cached frames: as given, else 8/7 of a clip's side."""
    return short or round(size * 8 / 7)


def read_clip(item: Footage, start: int, span: int, clip: ClipOptions, box: Box) -> Tensor:
    """Return one clip (T, 3, S, S) with values in [0, 1]."""
    frames = clip_frames(start, span, clip.frames, item.length)
    return resized(torch.from_numpy(np.ascontiguousarray(item.read(frames, box))), clip.size)


def to_network(clips: Tensor) -> Tensor:
    """Return clips (N, T, 3, S, S) in [0, 1] as networks take them: (N, 3, T, S, S), normalised."""
    return normalise(clips).transpose(1, 2).contiguous()


class RandomClips:
    """Where pre-training's batches come from: `clips` random clips of each video.

    Videos with the same frames have the same id, so that none is a negative of its twin.
    """

    def __init__(
        self, footage: Sequence[Footage], clip: ClipOptions, options: AugmentOptions, clips: int
    ) -> None:
        self.footage, self.clip, self.options, self.clips = footage, clip, options, clips
        first: dict[str, int] = {}
        self.ids = torch.tensor([first.setdefault(f.digest, i) for i, f in enumerate(footage)])

    def __len__(self) -> int:
        return len(self.footage)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Views:
        """Return the clips of the videos `indices`, (rho, B, 3, T, S, S)."""
        drawn = [clip for i in indices.tolist() for clip in self.draw(i, generator)]
        clips = to_network(augment(torch.stack(drawn), self.options, generator))
        clips = clips.unflatten(0, (len(indices), -1)).transpose(0, 1).contiguous()
        return Views(clips, self.ids[indices])

    def draw(self, place: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the clips (T, 3, S, S) of one video, cut but not changed otherwise."""
        item, options, clip = self.footage[place], self.options, self.clip
        span = clip.frames * clip.stride
        if options.rate_jitter:
            change = 2 * float(torch.rand((), generator=generator)) - 1
            span = max(clip.frames, round(span * (1 + options.rate_jitter * change)))
        gap = round(options.max_gap * item.fps) if options.max_gap else None
        area = (options.crop_min, options.crop_max)
        for start in draw_starts(item.length, span, self.clips, gap, generator).tolist():
            box = draw_place(item.height, item.width, clip.squash, area, generator)
            yield read_clip(item, start, span, clip, box)


class Labelled(NamedTuple):
    """A batch with labels: clips (B, 3, T, S, S), normalised, and class numbers (B,)."""

    clips: Tensor
    labels: Tensor


class LabelledClips:
    """Where fine-tuning's batches come from: one random clip of each video."""

    def __init__(
        self,
        footage: Sequence[Footage],
        labels: Sequence[int],
        clip: ClipOptions,
        options: AugmentOptions,
    ) -> None:
        self.clips = RandomClips(footage, clip, options, 1)
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Labelled:
        """Return a clip and the label of the videos `indices`."""
        drawn = [next(self.clips.draw(i, generator)) for i in indices.tolist()]
        clips = augment(torch.stack(drawn), self.clips.options, generator)
        return Labelled(to_network(clips), self.labels[indices])


def even_clips(item: Footage, clip: ClipOptions, views: int, crops: int = 1) -> Tensor:
    """Return clips (views * crops, 3, T, S, S), evenly in time, of the middle square.

    With three crops also those at both ends of the longer side; with `squash` the whole picture.
    """
    span = clip.frames * clip.stride
    starts = even_starts(item.length, span, views)
    boxes = _boxes(item, clip.squash, crops)
    found = [read_clip(item, start, span, clip, box) for start in starts for box in boxes]
    return to_network(torch.stack(found))


def _boxes(item: Footage, squash: bool, crops: int) -> list[Box]:
    height, width = item.height, item.width
    if squash:
        return [(0, 0, height, width)]
    side = min(height, width)
    rests = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
    return [(int((height - side) * r), int((width - side) * r), side, side) for r in rests]
