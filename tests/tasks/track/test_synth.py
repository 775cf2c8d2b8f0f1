from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.tasks.track.check import difficulty, occlusion
from mlkit.tasks.track.config import SynthConfig
from mlkit.tasks.track.formats import make_rows, read_truth
from mlkit.tasks.track.painting import compose
from mlkit.tasks.track.synth import synthesise
from mlkit.tasks.track.world import camera, identities, simulate

from .helpers import straight_tracks, write_mot

SMALL = {"videos": 2, "frames": 12, "width": 96, "height": 64, "objects": 4}


def make(folder: Path, **options: object) -> SynthConfig:
    config = SynthConfig(out=folder, **{**SMALL, **options})  # type: ignore[arg-type]
    synthesise(config)
    return config


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a", seed=4)
    make(tmp_path / "b", seed=4)
    make(tmp_path / "c", seed=5)
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert len(files) == 2 * (12 + 2)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    image = Path("synth-0001/img1/000001.jpg")
    assert (tmp_path / "a" / image).read_bytes() != (tmp_path / "c" / image).read_bytes()
    one, two = (tmp_path / "a" / f"synth-000{k}" / "img1" / "000001.jpg" for k in (1, 2))
    assert one.read_bytes() != two.read_bytes()
    with pytest.raises(DataError, match="holds sequences already"):
        make(tmp_path / "a", seed=4)


def test_truth_matches_the_pictures(tmp_path: Path) -> None:
    result = synthesise(SynthConfig(out=tmp_path, **{**SMALL, "frames": 30}, seed=1))  # type: ignore[arg-type]
    rows = read_truth(tmp_path / "synth-0001" / "gt" / "gt.txt")
    assert rows.visibility.min() >= 0
    assert rows.visibility.max() <= 1
    assert ((rows.visibility >= 0.1) == rows.valid).all()
    assert (
        result.metrics["difficulty"]["1"]["mean_iou"]
        > result.metrics["difficulty"]["10"]["mean_iou"]
    )
    with Image.open(tmp_path / "synth-0001" / "img1" / "000030.jpg") as image:
        assert image.size == (96, 64)


def test_sprites_and_backgrounds_come_from_folders(tmp_path: Path) -> None:
    sequence = straight_tracks(4)
    tall = make_rows(sequence.frame, sequence.identity, sequence.boxes * (1, 0.2, 1, 1.5))
    write_mot(tmp_path / "real" / "seq", tall)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)).save(
        photos / "1.png"
    )
    make(tmp_path / "people", sprites=tmp_path / "real", backgrounds=photos)
    make(tmp_path / "blobs", sprites=photos)
    assert len(list((tmp_path / "blobs").glob("*/img1/*.jpg"))) == 24


def test_who_comes_back_is_someone_else() -> None:
    inside = np.array([0, 1, 1, 0, 0, 1, 0, 1], dtype=bool)
    assert identities(inside, 5, keep=False).tolist() == [0, 5, 5, 0, 0, 6, 0, 7]
    assert identities(inside, 5, keep=True).tolist() == [0, 5, 5, 0, 0, 5, 0, 5]


def test_motion_and_cameras_keep_to_their_limits() -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        path = simulate(random, 90, 200, 120, 0.4)
        steps = np.abs(np.diff(path.centre, axis=0)).max(1) / (path.height[1:] * 0.4)
        assert steps.max() < 0.15 * 1.6  # sizes change by up to a fifth on the way
        view = camera(random, 90, 200)
        assert np.abs(np.diff(view[:, :2], axis=0)).max() < 0.02 * 200 + 3


def test_what_stands_in_front_hides_what_is_behind() -> None:
    def patch(colour: float, left: int) -> tuple[np.ndarray, int, int]:
        return (
            np.dstack((np.full((10, 10, 3), colour), np.full((10, 10), 255))).astype(np.float32),
            left,
            5,
        )

    canvas = np.zeros((20, 40, 3), dtype=np.float32)
    seen = compose(canvas, [patch(50, 0), patch(200, 5), patch(90, 35), patch(10, 60)])
    assert seen.tolist() == pytest.approx([0.5, 1, 0.5, 0])
    assert canvas[7, 7, 0] == 200
    assert canvas[7, 2, 0] == 50


def test_difficulty_is_the_overlap_of_boxes_k_frames_apart() -> None:
    rows = straight_tracks(8, speed=7)
    found = difficulty(rows, [1, 2, 30])
    assert found["1"] == {"mean_iou": pytest.approx(1 / 3), "lost": 0, "pairs": 14}
    assert found["2"] == {"mean_iou": 0, "lost": 1, "pairs": 12}
    assert found["30"]["pairs"] == 0
    stacked = make_rows([1, 1, 1], [1, 2, 3], [(0, 0, 10, 20), (2, 2, 10, 20), (50, 0, 10, 20)])
    assert occlusion(stacked) == pytest.approx(1 / 3)
