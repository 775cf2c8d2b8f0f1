"""Labelled things in photographs: YOLO polygons, COCO instances, numbered mask images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as pillow

from ...core.errors import DataError
from ...core.media import find_images
from .config import DeriveConfig
from .masks import AnyMask, MaskFile, Polygons, parse_mask, read_levels
from .references import read_json


@dataclass(frozen=True)
class Thing:
    """One labelled thing: its class and its mask."""

    name: str
    mask: AnyMask


@dataclass(frozen=True)
class Scene:
    """A photograph and all its labelled things."""

    image: Path
    things: tuple[Thing, ...]


def read_scenes(config: DeriveConfig) -> list[Scene]:
    """Return the photographs that have labels, in the format that LABELS shows.

    Raises `DataError` when photographs, labels or class names are missing or wrong.
    """
    if config.labels.is_file():
        scenes = list(_read_coco(config.photos, config.labels))
    elif config.labels.is_dir():
        images = find_images(config.photos)
        polygons = any(config.labels.glob("*.txt"))
        if polygons:
            names = read_classes(config.classes or config.labels.parent / "classes.txt")
            scenes = list(_read_yolo(images, config.labels, names))
        else:
            scenes = list(_read_numbered(images, config.labels, config.noun))
    else:
        raise DataError(f"{config.labels} does not exist", "give a folder, or instances.json")
    if not any(scene.things for scene in scenes):
        raise DataError(
            f"{config.labels} has no labels for the images in {config.photos}",
            "label files have the names of their images",
        )
    return scenes


def read_classes(path: Path) -> list[str]:
    """Return class names, one a line. Raises `DataError`."""
    try:
        names = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}", "name the file of classes with --classes"
        ) from error
    return [name for name in names if name]


def _read_yolo(images: list[Path], labels: Path, names: list[str]) -> Iterator[Scene]:
    for image in images:
        path = labels / f"{image.stem}.txt"
        if path.is_file():
            lines = [line.split() for line in path.read_text().splitlines()]
            things = tuple(
                _parse_yolo(line, f"{path} line {number}", names)
                for number, line in enumerate(lines, 1)
                if line
            )
            yield Scene(image, things)


def _parse_yolo(words: list[str], where: str, names: list[str]) -> Thing:
    """Read `class x1 y1 x2 y2 ...` with shares of the sides."""
    try:
        number, points = int(words[0]), tuple(float(word) for word in words[1:])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not 0 <= number < len(names):
        raise DataError(f"{where}: class {number} of {len(names)}", "see --classes")
    if len(points) < 6 or len(points) % 2 or not all(0 <= x <= 1 for x in points):
        raise DataError(f"{where}: not a polygon of points in [0, 1]")
    return Thing(names[number], Polygons((points,), relative=True))


def _read_coco(folder: Path, path: Path) -> Iterator[Scene]:
    document = read_json(path)
    try:
        names = {item["id"]: item["name"] for item in document["categories"]}
        found: dict[int, list[Thing]] = {item["id"]: [] for item in document["images"]}
        for item in document["annotations"]:
            # A crowd is many things in one mask, of which no sentence means one.
            if not item.get("iscrowd", 0):
                where = f"{path} annotation {item['id']}"
                mask = parse_mask(item["segmentation"], folder, where)
                found[item["image_id"]].append(Thing(names[item["category_id"]], mask))
        for item in document["images"]:
            yield Scene(folder / item["file_name"], tuple(found[item["id"]]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of COCO instances: no {error}") from error


def _read_numbered(images: list[Path], labels: Path, noun: str) -> Iterator[Scene]:
    """Read mask images whose pixel values number the things from 1."""
    for image in images:
        path = labels / f"{image.stem}.png"
        if path.is_file():
            numbers = np.unique(read_levels(path))
            things = (Thing(noun, MaskFile(path, int(n))) for n in numbers if n)
            yield Scene(image, tuple(things))


def size_of(image: Path) -> tuple[int, int]:
    """Return (height, width) of a photograph as it is shown, without decoding it.

    Raises `DataError` when it is no image.
    """
    try:
        with pillow.open(image) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5
    except FileNotFoundError as error:
        raise DataError(f"{image} does not exist") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{image} is not a readable image") from error
    return (width, height) if turned else (height, width)
