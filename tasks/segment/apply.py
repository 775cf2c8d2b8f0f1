"""The main job: a mask for every sentence about a photograph."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow

from ...core.arrays import array_bytes
from ...core.errors import DataError
from ...core.files import check_writable, write_bytes
from ...core.media import read_image
from ...core.options import RunOptions
from ...core.pictures import Picture, write_picture
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from .checkpoint import Trained, open_weights
from .config import SegmentConfig
from .masks import Letterbox, Mask, box_of
from .predict import probabilities
from .references import read_queries

COLOURS = ((230, 60, 60), (60, 120, 230), (60, 180, 90), (240, 180, 40), (170, 80, 200))


@dataclass(frozen=True)
class Found:
    """What one sentence meant: probabilities and mask at the photograph's size."""

    expression: str
    prob: NDArray[np.float32]
    mask: Mask
    warnings: tuple[str, ...]
    unknown: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Return plain values: area, box, mean confidence inside the mask, unknown words."""
        inside = float(self.prob[self.mask].mean()) if self.mask.any() else None
        return {
            "expression": self.expression,
            "area": int(self.mask.sum()),
            "box": box_of(self.mask),
            "confidence": inside,
            "peak": float(self.prob.max()),
            "unknown": list(self.unknown),
        }


def look(
    trained: Trained,
    picture: pillow.Image,
    texts: Sequence[str],
    threshold: float,
    runtime: Runtime,
) -> list[Found]:
    """Return what each sentence means in a photograph, which is encoded once.

    Raises `DataError` for a sentence of which no word is known.
    """
    warnings = [tuple(trained.vocabulary.check(text)) for text in texts]
    size = trained.model.options.image_size
    box = Letterbox(size, picture.height, picture.width)
    square = box.pad(picture, pillow.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    maps = probabilities(trained, pixels, box, texts, runtime)
    return [
        Found(text, prob, prob > threshold, said, tuple(trained.vocabulary.unknown(text)))
        for text, prob, said in zip(texts, maps, warnings, strict=True)
    ]


def find(
    config: SegmentConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write the mask of what each sentence refers to; overlay and probabilities if asked.

    Raises `DataError` for an unreadable photograph or a sentence without a known word.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    jobs = _plan(config)
    for path in (*(target for *_, target in jobs), config.overlay, config.prob):
        if path is not None and str(path) != "-":
            check_writable(path, config.overwrite)
    trained = open_weights(config.weights, runtime.device, progress)
    if config.queries is not None:
        return _many(config, jobs, trained, runtime, progress)
    assert config.image is not None
    picture = _read(config.image)
    found = look(trained, picture, config.expression, config.threshold, runtime)
    for one in found:
        for text in one.warnings:
            progress.warn(f"'{one.expression}': {text}")
    outputs, stream = {}, None
    for one, (_, _, target) in zip(found, jobs, strict=True):
        if str(target) == "-":
            stream = mask_bytes(one.mask)
        else:
            write_bytes(target, mask_bytes(one.mask))
            outputs[f"mask of '{one.expression}'"] = str(target)
    outputs |= _extras(config, picture, found)
    return Result(
        inputs={"image": str(config.image), "expressions": list(config.expression)},
        outputs=outputs,
        metrics={"found": [one.describe() for one in found], "size": list(picture.size)},
        tables=(_table(found),),
        notes=_notes(found),
        stream=stream,
    )


def _plan(config: SegmentConfig) -> list[tuple[Path, str, Path]]:
    """Return (image, sentence, mask file) of everything that is asked."""
    if config.queries is not None:
        queries = read_queries(config.queries)
    else:
        assert config.image is not None
        queries = [(config.image, text) for text in config.expression]
        if len(queries) == 1:
            return [(*queries[0], config.out)]
    width = len(str(len(queries)))
    return [
        (image, text, config.out / f"{number:0{width}d}-{_slug(text)}.png")
        for number, (image, text) in enumerate(queries, 1)
    ]


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:40] or "mask"


def _read(path: Path) -> pillow.Image:
    """Return a photograph. Raises `DataError`, also for an animation."""
    if str(path) != "-":
        try:
            with pillow.open(path) as image:
                frames = getattr(image, "n_frames", 1)
        except (OSError, ValueError, SyntaxError):
            frames = 1  # read_image says what is wrong
        if frames > 1:
            raise DataError(f"{path} has {frames} frames", "give a single picture")
    return read_image(path)


def _many(
    config: SegmentConfig,
    jobs: Sequence[tuple[Path, str, Path]],
    trained: Trained,
    runtime: Runtime,
    progress: Progress,
) -> Result:
    """Work through many photographs; those that fail are named at the end."""
    groups: dict[Path, list[tuple[str, Path]]] = {}
    for image, text, target in jobs:
        groups.setdefault(image, []).append((text, target))
    described: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    with progress.task("looking", len(jobs)) as bar:
        for image, asked in groups.items():
            try:
                picture = _read(image)
                known = [pair for pair in asked if not _refused(trained, image, pair[0], failures)]
                texts = [text for text, _ in known]
                found = look(trained, picture, texts, config.threshold, runtime) if texts else []
                for one, (_, target) in zip(found, known, strict=True):
                    write_bytes(target, mask_bytes(one.mask))
                    about = {"image": str(image), "mask": str(target)}
                    described.append(about | one.describe())
            except DataError as error:
                failures[str(image)] = error.message
            bar.advance(len(asked), image.name)
    return Result(
        inputs={"queries": str(config.queries), "sentences": len(jobs), "images": len(groups)},
        outputs={"masks": str(config.out)},
        metrics={"found": described},
        failures=failures,
        notes=(f"{len(described)} masks of {len(groups)} photographs",),
    )


def _refused(trained: Trained, image: Path, text: str, failures: dict[str, str]) -> bool:
    try:
        trained.vocabulary.check(text)
    except DataError as error:
        failures[f"{image}: {text}"] = error.message
        return True
    return False


def mask_bytes(mask: Mask) -> bytes:
    """Return a PNG of one channel, 0 and 255."""
    buffer = io.BytesIO()
    pillow.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def _extras(config: SegmentConfig, picture: pillow.Image, found: Sequence[Found]) -> dict[str, str]:
    """Write overlay and probabilities."""
    outputs = {}
    if config.overlay is not None:
        planes = torch.from_numpy(overlay(picture, [one.mask for one in found]))
        write_picture(config.overlay, Picture(planes.permute(2, 0, 1).float() / 255))
        outputs["overlay"] = str(config.overlay)
    if config.prob is not None:
        if config.prob.suffix.lower() == ".npy":
            write_bytes(config.prob, array_bytes(found[0].prob))
        else:
            write_picture(config.prob, Picture(torch.from_numpy(found[0].prob)[None], depth=16))
        outputs["probabilities"] = str(config.prob)
    return outputs


def overlay(picture: pillow.Image, masks: Sequence[Mask]) -> NDArray[np.uint8]:
    """Return the photograph (H, W, 3) with masks tinted and outlined, a colour each."""
    shown = np.array(picture.convert("RGB")).astype(np.float32)
    for number, mask in enumerate(masks):
        colour = np.array(COLOURS[number % len(COLOURS)], np.float32)
        shown[mask] = 0.5 * shown[mask] + 0.5 * colour
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        shown[mask & ~inner] = colour
    return shown.round().astype(np.uint8)


def _table(found: Sequence[Found]) -> Table:
    rows = []
    for one in found:
        about = one.describe()
        box = "-" if about["box"] is None else " ".join(str(side) for side in about["box"])
        confidence = "-" if about["confidence"] is None else f"{about['confidence']:.2f}"
        rows.append((one.expression, f"{about['area']:,}", box, confidence))
    return Table("Found", ("expression", "pixels", "box", "confidence"), rows)


def _notes(found: Sequence[Found]) -> tuple[str, ...]:
    return tuple(
        f"nothing was found for '{one.expression}': the most likely pixel has {one.prob.max():.2f}"
        for one in found
        if not one.mask.any()
    )
