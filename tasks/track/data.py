"""Training clips: frames of one sequence at one interval, changed alike in geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from .augment import Transformed, augment, mixup, mosaic
from .boxes import to_relative
from .config import ClipOptions, ModelOptions
from .decoder import Memory
from .formats import Rows
from .losses import Truth
from .model import ColTrack
from .objective import Clip
from .sequence import SequenceInfo, to_tensor

MAX_IMAGE_BYTES = 2 * 2**30  # of scaled frames kept in memory
SPREAD = 1_000_003  # keeps the identities of different sequences apart


@dataclass
class Footage:
    """A sequence to train on: frames `places` of `info`, the rows that count, scaled images."""

    info: SequenceInfo
    rows: Rows
    places: range
    number: int
    images: dict[int, Tensor] = field(default_factory=dict)

    def truth(self, place: int) -> Truth:
        """Return the objects of a frame."""
        found = self.rows.at(self.info.numbers[place])
        width, height = self.info.size
        boxes = torch.from_numpy(to_relative(found.boxes, width, height)).float()
        identity = torch.from_numpy(found.identity + self.number * SPREAD)
        return Truth(boxes, torch.from_numpy(found.category - 1), identity)


Frozen = list[Tensor] | Memory  # the backbone's maps, or the encoder's memory


class FrozenCache:
    """What the frozen parts of the network make of frames, in half precision.

    That is the encoder's memory where the `encoder` is frozen too, else the backbone's maps.
    """

    def __init__(self, model: ColTrack, encoder: bool, most_bytes: float) -> None:
        self.model, self.encoder, self.left = model, encoder, most_bytes
        self.kept: dict[tuple[int, int, bool], Frozen] = {}

    @torch.no_grad()
    def get(self, key: tuple[int, int, bool], image: Tensor) -> Frozen:
        """Return what was made (B = 1, on the CPU) of the image with this key."""
        if key in self.kept:
            return self.kept[key]
        images = image[None].to(next(self.model.parameters()).device)
        found = self.model.encode(images) if self.encoder else self.model.pyramid.see(images)
        # Rounded whether it is kept or not: a resumed run sees the same numbers.
        small = _combined([found], lambda same: same[0].half().cpu())
        values = [small.tokens] if isinstance(small, Memory) else small
        size = sum(value.nbytes for value in values)
        if self.left >= size:
            self.kept[key] = small
            self.left -= size
        return small


def _combined(parts: Sequence[Frozen], combine: Callable[[Sequence[Tensor]], Tensor]) -> Frozen:
    """Combine what belongs together of several frames' maps or memories."""
    memories = [part for part in parts if isinstance(part, Memory)]
    if memories:
        tokens, extents = [m.tokens for m in memories], [m.extent for m in memories]
        return memories[0]._replace(tokens=combine(tokens), extent=combine(extents))
    maps = [part for part in parts if not isinstance(part, Memory)]
    return [combine(levels) for levels in zip(*maps, strict=True)]


class Clips:
    """A `core.training.Source` of clips; sample i is the clip that starts at frame i.

    One interval, uniform in 1..max_interval as far as the sequence reaches, for the whole clip;
    clips never cross from one sequence into another.
    """

    def __init__(
        self,
        footage: Sequence[Footage],
        model_options: ModelOptions,
        options: ClipOptions,
        cache: FrozenCache | None = None,
    ) -> None:
        self.footage, self.size, self.options, self.cache = (
            footage,
            model_options.size,
            options,
            cache,
        )
        self.length = 1 if options.stage == "detect" else options.clip_length
        counts = [max(0, len(item.places) - self.length + 1) for item in footage]
        self.starts = np.cumsum([0, *counts])
        if not self.starts[-1]:
            raise DataError(
                f"no sequence has {self.length} frames to train on", "lower --clip-length or --val"
            )
        self.bytes = 0

    def __len__(self) -> int:
        return int(self.starts[-1])

    def fetch(self, indices: Tensor, generator: torch.Generator) -> list[Clip]:
        """Return one clip per index."""
        return [self._clip(int(index), generator) for index in indices]

    def _clip(self, index: int, generator: torch.Generator) -> Clip:
        item, places = self._places(index, generator)
        if self.cache is not None and self.options.augment != "full":
            return self._cached(item, places, generator)
        clip = self._load(item, places)
        if self.options.augment == "none":
            return _finish(clip)
        clip = augment(clip, generator, full=self.options.augment == "full")
        if self.options.augment == "full":
            clip = self._combined(clip, generator)
        return _finish(clip)

    def _combined(self, clip: Transformed, generator: torch.Generator) -> Transformed:
        """Mosaic with three other clips, mixup with another one, each with its probability."""
        if _chance(self.options.mosaic, generator):
            clip = mosaic([clip, *(self._other(generator) for _ in range(3))], generator)
        if _chance(self.options.mixup, generator):
            clip = mixup(clip, self._other(generator))
        return clip

    def _other(self, generator: torch.Generator) -> Transformed:
        index = int(torch.randint(len(self), (1,), generator=generator))
        return augment(self._load(*self._places(index, generator)), generator, full=True)

    def _places(self, index: int, generator: torch.Generator) -> tuple[Footage, list[int]]:
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        item, start = self.footage[which], index - int(self.starts[which])
        reach = (len(item.places) - 1 - start) // max(1, self.length - 1)
        most = max(1, min(self.options.max_interval, reach))
        interval = int(torch.randint(1, most + 1, (1,), generator=generator))
        return item, [item.places[start + k * interval] for k in range(self.length)]

    def _load(self, item: Footage, places: Sequence[int]) -> Transformed:
        missing = sorted({place for place in places if place not in item.images})
        loaded = dict(item.images)
        for place, image in zip(missing, item.info.read(missing), strict=True):
            loaded[place] = (to_tensor(image, self.size) * 255).round().byte()
            if self.bytes < MAX_IMAGE_BYTES:
                item.images[place] = loaded[place]
                self.bytes += loaded[place].numel()
        images = torch.stack([loaded[place] for place in places]).float() / 255
        return Transformed(images, [item.truth(place) for place in places])

    def _cached(self, item: Footage, places: Sequence[int], generator: torch.Generator) -> Clip:
        """Return a clip as the frozen parts see it; a mirror image is a frame of its own."""
        assert self.cache is not None
        flip = self.options.augment == "flip" and _chance(0.5, generator)
        clip = self._load(item, places)
        clip = clip.mirrored() if flip else clip
        parts = [
            self.cache.get((item.number, place, flip), image)
            for place, image in zip(places, clip.images, strict=True)
        ]
        return Clip(_combined(parts, lambda same: torch.cat(list(same)).float()), clip.truths)


def _finish(clip: Transformed) -> Clip:
    return Clip(clip.images, clip.truths)


def _chance(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < share


def make_footage(
    sequences: Sequence[tuple[SequenceInfo, Rows]], classes: int, val: float = 0.0
) -> list[Footage]:
    """Return what to train on: the first 1 - `val` of each sequence.

    Raises `DataError` when a ground truth has a category that the network does not.
    """
    footage = []
    for number, (info, rows) in enumerate(sequences):
        kept = rows.counted(None)
        kept = kept[kept.category >= 1]
        if classes == 1:
            kept = kept[kept.category == 1]
        if len(kept) and int(kept.category.max()) > classes:
            raise DataError(
                f"{info.name} has category {int(kept.category.max())}, "
                f"the network {classes} classes",
                "name them all with --classes",
            )
        count = len(info) - int(val * len(info))
        footage.append(Footage(info, kept, range(count), number))
    if not any(len(item.rows) for item in footage):
        raise DataError("the sequences hold no objects that count", "see 'mlkit check track'")
    return footage
