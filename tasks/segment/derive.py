"""True sentences about photographs whose things are all labelled, made by rules.

unique ("the dog", where there is one), side ("the leftmost person"), size ("the largest
zebra"), order ("the second car from the left"), colour ("the red car"). What is not clear is
dropped: positions closer than a gap, areas not much different, colours that are mixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from ...core.errors import DataError
from ...core.files import check_writable
from ...core.media import read_image
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import DeriveConfig
from .groups import group_of
from .instances import Scene, read_scenes, size_of
from .masks import Mask, encode_runs, rasterise, union
from .references import Reference, write_references

ORDINALS = ("first", "second", "third", "fourth", "fifth")
KINDS = ("unique", "side", "size", "order", "colour")
LEAST_PURE = 0.6  # share of a thing's pixels that must have its colour
# Hue in degrees up to which a colour reaches; saturation and value decide the greys before.
_HUES = (
    (18, "red"), (40, "orange"), (70, "yellow"), (165, "green"), (260, "blue"), (320, "purple"),
    (345, "pink"), (361, "red"),
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A thing as the rules see it; the centre's x and the area in shares of the photograph."""

    mask: Mask
    x: float
    area: float


@dataclass(frozen=True)
class Statement:
    """A sentence about things of one class: which rule, which of them."""

    kind: str
    text: str
    place: int


def unique(noun: str, things: Sequence[Known], config: DeriveConfig) -> Iterator[Statement]:
    """The only one of its class."""
    if len(things) == 1:
        yield Statement("unique", f"the {noun}", 0)


def side(noun: str, things: Sequence[Known], config: DeriveConfig) -> Iterator[Statement]:
    """The first from the left and from the right, clearly apart from the next."""
    order, x = _in_row(things)
    if len(things) > 1 and x[1] - x[0] > config.gap:
        yield Statement("side", f"the leftmost {noun}", order[0])
    if len(things) > 1 and x[-1] - x[-2] > config.gap:
        yield Statement("side", f"the rightmost {noun}", order[-1])


def size(noun: str, things: Sequence[Known], config: DeriveConfig) -> Iterator[Statement]:
    """The largest in the picture, much larger than the next."""
    order = sorted(range(len(things)), key=lambda place: -things[place].area)
    if len(things) > 1 and things[order[0]].area >= config.ratio * things[order[1]].area:
        yield Statement("size", f"the largest {noun}", order[0])


def order(noun: str, things: Sequence[Known], config: DeriveConfig) -> Iterator[Statement]:
    """Those between the ends of a row of three to five, all clearly apart."""
    places, x = _in_row(things)
    if 3 <= len(things) <= len(ORDINALS) and np.diff(x).min() > config.gap:
        for number in range(1, len(places) - 1):
            yield Statement("order", f"the {ORDINALS[number]} {noun} from the left", places[number])


RULES: tuple[Callable[[str, Sequence[Known], DeriveConfig], Iterator[Statement]], ...] = (
    unique,
    side,
    size,
    order,
)


def _in_row(things: Sequence[Known]) -> tuple[list[int], list[float]]:
    """Return places from left to right, and their x."""
    places = sorted(range(len(things)), key=lambda place: things[place].x)
    return places, [things[place].x for place in places]


def by_colour(noun: str, colours: Sequence[str | None]) -> Iterator[Statement]:
    """The only one of its class with its colour, where every one's colour is clear."""
    if len(colours) > 1 and None not in colours:
        counts = Counter(colours)
        for place, colour in enumerate(colours):
            if counts[colour] == 1:
                yield Statement("colour", f"the {colour} {noun}", place)


def colour_of(picture: pillow.Image, mask: Mask) -> str | None:
    """Return the colour that most of a thing's pixels have, None when they are mixed."""
    names = Counter(colour_names(np.array(picture.convert("HSV"))[mask]).tolist())
    name, count = names.most_common(1)[0]
    return str(name) if count >= LEAST_PURE * mask.sum() else None


def colour_names(hsv: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return a colour's name for each row of (n, 3) hue, saturation, value in 0..255."""
    hue = hsv[:, 0].astype(np.float64) * 360 / 256
    saturation, value = hsv[:, 1] / 255, hsv[:, 2] / 255
    edges = np.array([edge for edge, _ in _HUES])
    found = np.array([name for _, name in _HUES])[np.searchsorted(edges, hue, side="right")]
    found = np.where((saturation < 0.18) & (value > 0.75), "white", found)
    found = np.where((saturation < 0.18) & (value <= 0.75), "grey", found)
    found = np.where((found == "orange") & (value < 0.6), "brown", found)
    return np.where(value < 0.22, "black", found)


def derive(scene: Scene, config: DeriveConfig) -> list[Reference]:
    """Return all true sentences about one photograph.

    Small things are not referred to, but they count among the others. Raises `DataError` for
    masks that do not fit the photograph.
    """
    shape = size_of(scene.image)
    names = [group_of(thing.name) if config.groups else thing.name for thing in scene.things]
    found: list[Reference] = []
    picture: pillow.Image | None = None
    for noun in dict.fromkeys(names):
        parts = [t for t, name in zip(scene.things, names, strict=True) if name == noun]
        things = [_known(rasterise(part.mask, shape, str(scene.image))) for part in parts]
        statements = [s for rule in RULES for s in rule(noun, things, config)]
        if len(things) > 1:
            picture = picture or read_image(scene.image)
            statements += by_colour(noun, [colour_of(picture, thing.mask) for thing in things])
        everything = encode_runs(union([thing.mask for thing in things]))
        for statement in statements:
            thing = things[statement.place]
            if thing.area >= config.min_area:
                name = f"{scene.image.stem}-{len(found)}"
                mask = encode_runs(thing.mask)
                found.append(
                    Reference(
                        scene.image, statement.text, mask, name, "", statement.kind, everything
                    )
                )
    return found


def _known(mask: Mask) -> Known:
    columns = np.flatnonzero(mask.any(0))
    return Known(mask, float(columns[0] + columns[-1] + 1) / 2 / mask.shape[1], float(mask.mean()))


def derive_references(config: DeriveConfig, progress: Progress | None = None) -> Result:
    """Write the sentences that rules make about labelled photographs.

    A photograph whose labels do not fit is named and left out. Raises `DataError` when nothing
    at all can be said.
    """
    progress = progress or Silent()
    check_writable(config.out, config.overwrite)
    scenes = read_scenes(config)
    found: list[Reference] = []
    failures: dict[str, str] = {}
    with progress.task("deriving", len(scenes)) as bar:
        for scene in scenes:
            try:
                found += derive(scene, config)
            except DataError as error:
                failures[str(scene.image)] = error.message
                progress.warn(f"skipped: {error.message}")
            bar.advance()
    if not found:
        raise DataError(f"no rule applies to the things in {config.labels}", "lower --min-area")
    write_references(config.out, found)
    counts = Counter(reference.kind for reference in found)
    return Result(
        inputs={"photos": str(config.photos), "labels": str(config.labels)},
        outputs={"references": str(config.out)},
        metrics={"references": len(found), "kinds": dict(counts), "photographs": len(scenes)},
        tables=(Table("Sentences", ("rule", "count"), [(k, f"{counts[k]:,}") for k in KINDS]),),
        notes=(f"Next: mlkit check segment {config.out}",),
        failures=failures,
    )
