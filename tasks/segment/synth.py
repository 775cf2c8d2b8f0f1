"""A generated world of shapes: scenes, pictures, and sentences with exact meaning.

Every sentence is made from a program on the scene: `attr` (attributes that are unique), `ord`
(leftmost, the second from the right, ... of several that look alike), `rel` (left of, above, ...
another thing), `none` (nothing there is meant). `world` reads the finished sentence and answers
by itself; only sentences on which both agree are written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from ...core.errors import DataError
from ...core.files import check_writable, replacing
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import SynthConfig
from .masks import Mask, encode_runs, union
from .references import Reference, write_references
from .world import answer

NOUNS = ("circle", "square", "triangle")
COLOURS = {
    "red": (210, 50, 50), "green": (60, 170, 70), "blue": (60, 90, 220), "yellow": (225, 205, 60),
    "purple": (150, 60, 180), "cyan": (70, 200, 210), "orange": (235, 140, 40),
    "white": (240, 240, 240),
}  # fmt: skip
SIZES = {"small": 0.085, "large": 0.15}  # half the width, in sides of the picture
# Never shown in training scenes; all that the split "composition" refers to.
HELD_OUT = frozenset({("purple", "triangle"), ("green", "circle"), ("orange", "square")})
KINDS = ("attr", "ord", "rel")
ORDINALS = ("first", "second", "third", "fourth")
# Direction: axis (0: x, 1: y) and sign of what comes first.
DIRECTIONS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
EXTREMES = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "bottommost"}
RELATIONS = {
    "left of": (0, -1), "to the left of": (0, -1), "right of": (0, 1), "to the right of": (0, 1),
    "above": (1, -1), "below": (1, 1),
}  # fmt: skip
MARGIN = 0.06  # positions closer than this, in sides, are neither left nor right
TRIES = 200


@dataclass(frozen=True)
class Shape:
    """One thing in a scene; centre and half width in pixels."""

    noun: str
    colour: str
    size: str
    x: float
    y: float
    half: float

    @property
    def attributes(self) -> tuple[str, str, str]:
        """Size, colour and noun."""
        return self.size, self.colour, self.noun


@dataclass(frozen=True)
class Saying:
    """A sentence about a scene and the place of its referent (None: nothing is meant)."""

    kind: str
    text: str
    target: int | None


def make_scene(random: np.random.Generator, side: int, most: int, held_out: bool) -> list[Shape]:
    """Return 3 to `most` shapes that do not touch.

    `held_out` tells whether combinations of `HELD_OUT` may occur; if so, the first shape is one.
    """
    count = int(random.integers(3, most + 1))
    pairs = [p for p in itertools.product(COLOURS, NOUNS) if p not in HELD_OUT]
    # Few colours and nouns to a scene, so that most things have something like them beside.
    few = random.permutation(len(pairs))[: int(random.integers(2, count + 1))]
    chosen = [pairs[few[i % len(few)]] for i in range(count)]
    if held_out:
        chosen[0] = sorted(HELD_OUT)[int(random.integers(len(HELD_OUT)))]
    shapes: list[Shape] = []
    while len(shapes) < count:
        shapes = _place(random, side, chosen)
    return shapes


def _place(
    random: np.random.Generator, side: int, chosen: Sequence[tuple[str, str]]
) -> list[Shape]:
    """Return shapes at free places; fewer than asked if it got too narrow."""
    shapes: list[Shape] = []
    for colour, noun in chosen:
        size = ("small", "large")[int(random.integers(2))]
        half = SIZES[size] * side
        for _ in range(50):
            x, y = random.uniform(half + 1, side - half - 1, 2)
            # 1.3: the corners of squares stick out.
            if all(np.hypot(x - s.x, y - s.y) > 1.3 * (half + s.half) for s in shapes):
                shapes.append(Shape(noun, colour, size, float(x), float(y), half))
                break
    return shapes


def mask_of(shape: Shape, side: int) -> Mask:
    """Return the pixels of a shape (side, side)."""
    dy, dx = np.mgrid[:side, :side] + 0.5 - np.array([shape.y, shape.x])[:, None, None]
    if shape.noun == "circle":
        return dx**2 + dy**2 <= shape.half**2
    if shape.noun == "square":
        return np.maximum(abs(dx), abs(dy)) <= 0.9 * shape.half
    return (abs(dy) <= shape.half) & (2 * abs(dx) <= dy + shape.half)


def draw(shapes: Sequence[Shape], side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return a noisy picture (side, side, 3) on grey."""
    picture = np.full((side, side, 3), random.uniform(90, 130))
    for shape in shapes:
        picture[mask_of(shape, side)] = np.array(COLOURS[shape.colour]) * random.uniform(0.9, 1.05)
    return (picture + random.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)


def matching(shapes: Sequence[Shape], wanted: Sequence[str | None]) -> list[int]:
    """Return the places of the shapes with these attributes (size, colour, noun; None: any)."""
    return [
        place
        for place, shape in enumerate(shapes)
        if all(w in (None, a) for w, a in zip(wanted, shape.attributes, strict=True))
    ]


def phrase(wanted: Sequence[str | None]) -> str:
    """Return the words of attributes: "small red circle", "blue shape"."""
    return " ".join(word for word in (*wanted[:2], wanted[2] or "shape") if word)


def say(
    kind: str, shapes: Sequence[Shape], side: int, random: np.random.Generator
) -> Saying | None:
    """Return a sentence of a kind about a scene; None when this draw gave none."""
    maker = {"attr": _attr, "ord": _ord, "rel": _rel, "none": _none}[kind]
    return maker(shapes, MARGIN * side, random)


def _some(random: np.random.Generator, shape: Shape) -> tuple[str | None, ...]:
    """Return some of a shape's attributes, at least one."""
    keep = random.random(3) < (0.4, 0.7, 0.8)
    if not keep.any():
        keep[2] = True
    return tuple(a if k else None for a, k in zip(shape.attributes, keep, strict=True))


def _attr(shapes: Sequence[Shape], margin: float, random: np.random.Generator) -> Saying | None:
    target = int(random.integers(len(shapes)))
    wanted = _some(random, shapes[target])
    if matching(shapes, wanted) != [target]:
        return None
    return Saying("attr", f"the {phrase(wanted)}", target)


def _ord(shapes: Sequence[Shape], margin: float, random: np.random.Generator) -> Saying | None:
    wanted = _some(random, shapes[int(random.integers(len(shapes)))])
    places = matching(shapes, wanted)
    if len(places) < 2:
        return None
    direction = list(DIRECTIONS)[int(random.integers(4))]
    axis, sign = DIRECTIONS[direction]
    key = np.array([(shapes[p].x, shapes[p].y)[axis] for p in places]) * sign
    order = key.argsort()
    if np.diff(key[order]).min() < margin:
        return None
    number = int(random.integers(min(len(places), len(ORDINALS))))
    text = phrase(wanted)
    if number == 0 and random.random() < 0.7:
        said = f"the {EXTREMES[direction]} {text}"
    else:
        said = f"the {ORDINALS[number]} {text} from the {direction}"
    return Saying("ord", said, places[order[number]])


def _rel(shapes: Sequence[Shape], margin: float, random: np.random.Generator) -> Saying | None:
    target, anchor = (int(i) for i in random.permutation(len(shapes))[:2])
    wanted, known = _some(random, shapes[target]), _some(random, shapes[anchor])
    candidates = matching(shapes, wanted)
    if matching(shapes, known) != [anchor] or len(candidates) < 2:
        return None
    relation = list(RELATIONS)[int(random.integers(len(RELATIONS)))]
    axis, sign = RELATIONS[relation]
    there = (shapes[anchor].x, shapes[anchor].y)[axis]
    others = [p for p in candidates if p != anchor]
    offsets = {p: sign * ((shapes[p].x, shapes[p].y)[axis] - there) for p in others}
    if any(abs(offset) < margin for offset in offsets.values()):
        return None
    if [p for p, offset in offsets.items() if offset > 0] != [target]:
        return None
    return Saying("rel", f"the {phrase(wanted)} {relation} the {phrase(known)}", target)


def _none(shapes: Sequence[Shape], margin: float, random: np.random.Generator) -> Saying | None:
    pairs = [p for p in itertools.product(COLOURS, NOUNS) if p not in HELD_OUT]
    colour, noun = pairs[int(random.integers(len(pairs)))]
    wanted = (None, colour, noun)
    return None if matching(shapes, wanted) else Saying("none", f"the {phrase(wanted)}", None)


@dataclass(frozen=True)
class Scene:
    """Shapes, their picture and masks, and one sentence of each kind that could be made."""

    shapes: list[Shape]
    picture: NDArray[np.uint8]
    masks: list[Mask]
    sayings: list[Saying]


def generate(count: int, side: int, most: int, part: str, seed: int) -> Iterator[Scene]:
    """Yield scenes with one sentence of each kind; the same arguments give the same scenes.

    In "composition" every sentence names colour and noun of a held-out combination; elsewhere
    these do not occur. "test" has sentences that mean nothing as well.
    """
    random = np.random.default_rng((seed, *part.encode()))
    made = 0
    while made < count:
        shapes = make_scene(random, side, most, part == "composition")
        sayings = list(_sayings(shapes, side, part, random))
        if sayings:
            made += 1
            masks = [mask_of(shape, side) for shape in shapes]
            yield Scene(shapes, draw(shapes, side, random), masks, sayings)


def _sayings(
    shapes: Sequence[Shape], side: int, part: str, random: np.random.Generator
) -> Iterator[Saying]:
    """Yield a sentence of each kind, or of none: kinds stay balanced."""
    if part == "composition":
        _, colour, noun = shapes[0].attributes
        if matching(shapes, (None, colour, noun)) == [0]:
            yield Saying("attr", f"the {phrase((None, colour, noun))}", 0)
        return
    found = []
    for kind in (*KINDS, *(["none"] if part == "test" else [])):
        tries = (say(kind, shapes, side, random) for _ in range(TRIES))
        saying = next((s for s in tries if s is not None), None)
        if saying is None:
            return
        found.append(saying)
    yield from found


def check_saying(saying: Saying, shapes: Sequence[Shape], masks: Sequence[Mask]) -> bool:
    """Tell whether the second evaluator, which sees masks and reads the text, agrees."""
    seen = [(*shape.attributes, mask) for shape, mask in zip(shapes, masks, strict=True)]
    return answer(saying.text, seen) == saying.target


def synthesise(config: SynthConfig, progress: Progress | None = None) -> Result:
    """Write images/ and refs.jsonl with the splits train, val, test and composition.

    Raises `DataError` when the files exist already.
    """
    progress = progress or Silent()
    table = config.out / "refs.jsonl"
    check_writable(table, config.overwrite)
    sizes = {"train": config.scenes} | dict.fromkeys(
        ("val", "test", "composition"), config.test_scenes
    )
    references: list[Reference] = []
    with progress.task("drawing", sum(sizes.values())) as bar:
        for part, count in sizes.items():
            scenes = generate(count, config.image_size, config.shapes, part, config.seed)
            for number, scene in enumerate(scenes):
                image = config.out / "images" / f"{part}-{number:05d}.png"
                with replacing(image) as temporary:
                    pillow.fromarray(scene.picture).save(temporary)
                references += _references(scene, image, part)
                bar.advance()
    write_references(table, references)
    rows = [
        (part, *(f"{sum(r.split == part and r.kind == k for r in references):,}"
                 for k in (*KINDS, "none")))
        for part in sizes
    ]  # fmt: skip
    return Result(
        outputs={"references": str(table), "images": str(config.out / "images")},
        metrics={"references": len(references), "scenes": sum(sizes.values())},
        tables=(Table("Sentences", ("split", *KINDS, "none"), rows),),
        notes=(f"Next: mlkit train segment {table} --image-size {config.image_size // 8 * 8}",),
    )


def _references(scene: Scene, image: Path, part: str) -> Iterator[Reference]:
    everything = encode_runs(union(scene.masks))
    for number, saying in enumerate(scene.sayings):
        if not check_saying(saying, scene.shapes, scene.masks):
            raise DataError(f"the two readings of '{saying.text}' differ in {image}")
        mask = None if saying.target is None else encode_runs(scene.masks[saying.target])
        name = f"{image.stem}-{number}"
        yield Reference(image, saying.text, mask, name, part, saying.kind, everything)
