from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mlkit.core.errors import DataError
from mlkit.tasks.segment import synth
from mlkit.tasks.segment.config import SourceOptions, SynthConfig
from mlkit.tasks.segment.masks import rasterise
from mlkit.tasks.segment.references import open_references
from mlkit.tasks.segment.synth import HELD_OUT, Shape, generate, make_scene, mask_of
from mlkit.tasks.segment.world import answer

from .helpers import world


def test_the_second_reader_agrees_on_ten_thousand_sentences() -> None:
    """Without pictures: scenes and sentences alone, so that it takes seconds."""
    random = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    while counts.total() < 10_000:
        shapes = make_scene(random, 48, 5, False)
        masks = [mask_of(shape, 48) for shape in shapes]
        for kind in ("attr", "ord", "rel", "none"):
            for _ in range(60 if kind == "rel" else 4):  # most draws give no relation
                saying = synth.say(kind, shapes, 48, random)
                if saying is not None:
                    assert synth.check_saying(saying, shapes, masks), (saying, shapes)
                    counts[kind] += 1
    assert min(counts.values()) > 500


def seen(*things: tuple[str, str, str, int, int]) -> list[tuple[str, str, str, np.ndarray]]:
    found = []
    for size, colour, noun, x, y in things:
        mask = np.zeros((30, 30), dtype=bool)
        mask[y - 1 : y + 2, x - 1 : x + 2] = True
        found.append((size, colour, noun, mask))
    return found


def test_the_second_reader_reads_what_we_mean() -> None:
    scene = seen(
        ("small", "red", "circle", 5, 5),
        ("large", "red", "circle", 15, 8),
        ("small", "red", "circle", 25, 20),
        ("large", "blue", "square", 18, 25),
    )
    assert answer("the blue shape", scene) == 3
    assert answer("the large red circle", scene) == 1
    assert answer("the leftmost red circle", scene) == 0
    assert answer("the rightmost circle", scene) == 2
    assert answer("the second circle from the right", scene) == 1
    assert answer("the first shape from the bottom", scene) == 3
    assert answer("the topmost small circle", scene) == 0
    assert answer("the circle right of the blue square", scene) == 2
    assert answer("the circle to the right of the square", scene) == 2
    assert answer("the small circle above the large circle", scene) == 0
    assert answer("the green square", scene) is None
    with pytest.raises(ValueError, match="means 3 things"):
        answer("the red circle", scene)


def test_same_seed_same_bytes_and_another_seed_another_world(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        world(tmp_path / name, 10, seed=seed)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 10 + 3 * 4 + 1
    same = [
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    ]
    assert all(same)
    assert (tmp_path / "one/refs.jsonl").read_bytes() != (
        tmp_path / "three/refs.jsonl"
    ).read_bytes()


def test_what_is_written_is_what_was_meant(tmp_path: Path) -> None:
    references = open_references(world(tmp_path), SourceOptions())
    counts = Counter((r.split, r.kind) for r in references)
    assert counts["train", "attr"] == counts["train", "ord"] == counts["train", "rel"] == 20
    assert counts["test", "none"] == 4
    assert counts["composition", "attr"] == 4
    for reference in references:
        if reference.kind == "none":
            assert reference.mask is None
            continue
        assert reference.mask is not None
        assert reference.candidates is not None
        mask = rasterise(reference.mask, (32, 32), "x")
        whole = rasterise(reference.candidates, (32, 32), "x")
        assert (mask & ~whole).sum() == 0
        assert whole.sum() > mask.sum()
    with pytest.raises(DataError, match="exists already"):
        synth.synthesise(SynthConfig(out=tmp_path))


def test_held_out_combinations_occur_in_their_split_alone() -> None:
    for part in ("train", "val", "test"):
        for scene in generate(15, 32, 4, part, 0):
            assert not {(s.colour, s.noun) for s in scene.shapes} & HELD_OUT
    for scene in generate(15, 32, 4, "composition", 0):
        assert all(
            (scene.shapes[s.target].colour, scene.shapes[s.target].noun) in HELD_OUT
            for s in scene.sayings
            if s.target is not None
        )


def test_shapes_do_not_touch_and_look_as_they_should() -> None:
    for scene in generate(15, 48, 5, "train", 1):
        for one, two in itertools.combinations(scene.masks, 2):
            assert not (one & two).any()
        assert scene.picture.shape == (48, 48, 3)
    half = 20.0
    areas = {
        noun: mask_of(Shape(noun, "red", "large", 50, 50, half), 100).mean() * 1e4
        for noun in synth.NOUNS
    }
    assert areas["circle"] == pytest.approx(np.pi * half**2, rel=0.03)
    assert areas["square"] == pytest.approx((1.8 * half) ** 2, rel=0.03)
    assert areas["triangle"] == pytest.approx(2 * half**2, rel=0.05)
