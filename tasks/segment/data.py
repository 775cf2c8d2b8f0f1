"""Batches of references for training, read when they are needed and kept while they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as pillow
from torch import Tensor

from ...core.media import batched, read_image
from ...core.progress import Progress
from ...core.runtime import Runtime
from .masks import Letterbox, rasterise
from .model import Segmenter
from .references import Reference
from .text import MIRRORED, Vocabulary, exchange

KEPT_BYTES = 2 * 2**30  # of decoded pictures, masks or features


def read_square(path: Path | str, size: int) -> tuple[Tensor, Letterbox]:
    """Return a photograph in a square (3, S, S) uint8, and how it lies there."""
    picture = read_image(path)
    box = Letterbox(size, picture.height, picture.width)
    square = box.pad(picture, pillow.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous(), box


def read_target(reference: Reference, box: Letterbox) -> Tensor:
    """Return a reference's mask in the square (S, S) uint8, 0 or 1."""
    if reference.mask is None:
        return torch.zeros(box.size, box.size, dtype=torch.uint8)
    whole = rasterise(reference.mask, (box.height, box.width), str(reference.image))
    scaled = box.pad(pillow.fromarray(whole.astype(np.uint8) * 255), pillow.Resampling.BOX)
    return torch.from_numpy(np.array(scaled) > 127).to(torch.uint8)


class Samples:
    """References as a source of batches: {"images" or "features", "tokens", "masks"}.

    With `mirror` every reference comes twice, the second time mirrored, left and right
    exchanged in its sentence. With `jitter` pictures are shifted by up to a sixteenth and
    made brighter or darker by up to a fifth.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        vocabulary: Vocabulary,
        size: int,
        mirror: bool = False,
        jitter: bool = False,
    ) -> None:
        self.references, self.size, self.jitter = references, size, jitter
        self.mirror = mirror
        texts = [reference.expression for reference in references]
        if mirror:
            texts += [exchange(text, MIRRORED) for text in texts]
        self.tokens = vocabulary.encode(texts)
        self.features: dict[tuple[Path, bool], list[Tensor]] = {}
        self._squares: dict[Path, tuple[Tensor, Letterbox]] = {}
        self._targets: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Return a batch; all randomness comes from `generator`."""
        chosen = indices.tolist()
        tokens = self.tokens[indices]
        batch: dict[str, Any] = {"tokens": tokens[:, : int((tokens != 0).sum(1).max())]}
        pairs = [self._sample(i) for i in chosen]
        masks = torch.stack([mask for _, mask in pairs])
        if self.features:
            found = [self.features[self._key(i)] for i in chosen]
            batch["features"] = [torch.stack(level) for level in zip(*found, strict=True)]
        else:
            images = torch.stack([image for image, _ in pairs])
            if self.jitter:
                images, masks = _jittered(images, masks, generator)
            batch["images"] = images
        return batch | {"masks": masks}

    def _key(self, index: int) -> tuple[Path, bool]:
        number = index % len(self.references)
        return self.references[number].image, index >= len(self.references)

    def _sample(self, index: int) -> tuple[Tensor, Tensor]:
        image, mirrored = self._key(index)
        number = index % len(self.references)
        square, box = self.square(image)
        target = self._targets.get(number)
        if target is None:
            target = read_target(self.references[number], box)
            if (len(self._targets) + 1) * target.numel() < KEPT_BYTES:
                self._targets[number] = target
        return (square.flip(-1), target.flip(-1)) if mirrored else (square, target)

    def square(self, image: Path) -> tuple[Tensor, Letterbox]:
        """Return a photograph in its square."""
        if image in self._squares:
            return self._squares[image]
        found = read_square(image, self.size)
        if (len(self._squares) + 1) * found[0].numel() < KEPT_BYTES:
            self._squares[image] = found
        return found

    def preload(self, progress: Progress) -> None:
        """Read everything now, where it fits: what is wrong with it shows before the training."""
        images = {reference.image for reference in self.references}
        if (len(self.references) + 3 * len(images)) * self.size**2 < KEPT_BYTES:
            with progress.task("reading", len(self.references)) as bar:
                for index in range(len(self.references)):
                    self._sample(index)
                    bar.advance()

    def encode(self, model: Segmenter, runtime: Runtime, progress: Progress) -> None:
        """Compute the features of a frozen backbone once, half precision, where they fit."""
        images = list(dict.fromkeys(reference.image for reference in self.references))
        keys = [
            (image, flip)
            for flip in ([False, True] if self.mirror else [False])
            for image in images
        ]
        with torch.no_grad(), progress.task("features", len(keys)) as bar:
            for part in batched(keys, 8):
                squares = [self.square(image)[0] for image, _ in part]
                flipped = [x.flip(-1) if k[1] else x for x, k in zip(squares, part, strict=True)]
                stack = torch.stack(flipped).to(runtime.device).float() / 255
                levels = [level.half().cpu() for level in model.features(stack)]
                for place, key in enumerate(part):
                    self.features[key] = [level[place].clone() for level in levels]
                bar.advance(len(part))


def fits(model: Segmenter, photographs: int) -> bool:
    """Tell whether the features of so many photographs may be kept in memory."""
    cells = (model.options.image_size // 8) ** 2
    return photographs * cells * 2 * sum(model.backbone.channels) < KEPT_BYTES


def _jittered(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shift pictures and masks together, zeros from outside, and change the brightness."""
    from ...core.augment import shifted

    most = images.shape[-1] // 16
    stack = torch.cat((images, masks[:, None]), 1)
    stack = shifted(stack, most, generator, border="zero")
    gain = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (stack[:, :3] * gain).clamp(0, 255).to(torch.uint8), stack[:, 3]
