from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlkit.core.video import open_video
from mlkit.tasks.track.checkpoint import save_model
from mlkit.tasks.track.formats import read_results

from ..tasks.track.helpers import straight_tracks, tiny_model, write_mot

Mlkit = Callable[..., Any]
TINY = ["--width", "8", "--dim", "32", "--heads", "4", "--encoder-layers", "0", "--ffn", "32",
        "--decoder-layers", "2", "--queries", "8", "--size", "64", "--clip-length", "2",
        "--noise-pairs", "4", "--steps", "4", "--save-every", "2"]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sequence seq and two networks, which is also the current one."""
    write_mot(tmp_path / "seq", straight_tracks())
    model = tiny_model()
    torch.nn.init.zeros_(model.decoder.class_embed.bias)
    save_model(tmp_path / "free.safetensors", model, {})
    save_model(tmp_path / "given.safetensors", model, {"clips": {"proposals": True}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_baselines_track_the_boxes_of_a_folder(mlkit: Mlkit, place: Path) -> None:
    for method in ("iou", "cv", "sort", "byte", "histogram"):
        done = mlkit("track", "seq", "--det", "det", "--method", method, "-o", f"{method}.txt")
        assert done.code == 0, done.err
        rows = read_results(place / f"{method}.txt")
        assert len(rows) == 24
        assert set(rows.identity.tolist()) == {1, 2}
    scored = mlkit("eval", "track", "seq", "--results", "sort.txt", "--json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)["metrics"]["sort.txt"]["1"]["seq"]
    assert scores["HOTA"] == scores["IDF1"] == 100


def test_the_network_tracks_and_draws(mlkit: Mlkit, place: Path) -> None:
    command = ["track", "seq", "--weights", "free.safetensors", "--thresh", "0.5", "--every", "3"]
    done = mlkit(*command, "-o", "t.txt", "--video", "t.mp4", "--min-area", "0", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["metrics"]["frames"] == 4
    assert set(document["metrics"]["boxes_per_frame"]) == {"1", "4", "7", "10"}
    assert set(document["metrics"]["seconds"]) == {"read", "encode", "decode", "draw"}
    rows = read_results(place / "t.txt")
    assert set(rows.frame.tolist()) <= {1, 4, 7, 10}
    assert len(list(open_video(place / "t.mp4"))) == 4
    assert mlkit(*command, "-o", "t.txt").code == 3  # exists already
    piped = mlkit(*command, "-o", "-", "--min-area", "0")
    assert piped.code == 0, piped.err
    assert piped.raw == (place / "t.txt").read_bytes()


def test_without_weights_the_embedded_networks_work(mlkit: Mlkit, place: Path) -> None:
    done = mlkit("track", "seq", "--det", "gt", "-o", "t.txt")
    assert done.code == 0, done.err
    rows = read_results(place / "t.txt")
    assert len(rows) == 24
    assert set(rows.identity.tolist()) == {1, 2}
    scored = mlkit("eval", "track", "seq", "--det", "gt", "--every", "2", "--json")
    assert json.loads(scored.out)["metrics"]["coltrack"]["2"]["seq"]["DetA"] == 100
    found = mlkit("track", "seq", "-o", "u.txt", "--json")  # no people in it, and none are found
    assert found.code == 0, found.err
    assert json.loads(found.out)["metrics"]["frames"] == 12


def test_baselines_follow_what_the_network_finds_in_single_frames(
    mlkit: Mlkit, place: Path
) -> None:
    command = ["track", "seq", "--method", "iou", "--weights", "free.safetensors"]
    done = mlkit(*command, "--thresh", "0.4", "--min-area", "0", "-o", "t.txt", "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["metrics"]["seconds"]) == {"detect", "associate"}
    first, *_ = read_results(place / "t.txt").score
    assert first > 0.4
    scored = mlkit("eval", "track", "seq", "--methods", "coltrack,iou", "--every", "4",
                   "--weights", "free.safetensors", "--json")  # fmt: skip
    assert set(json.loads(scored.out)["metrics"]) == {"coltrack", "iou"}


def test_given_boxes_go_through_the_network(mlkit: Mlkit, place: Path) -> None:
    command = ["track", "seq", "--weights", "given.safetensors", "-o", "t.txt"]
    done = mlkit(*command, "--det", "gt", "--interpolate", "5", "--smooth", "3")
    assert done.code == 0, done.err
    assert len(read_results(place / "t.txt")) > 12
    refused = mlkit(*command, "--overwrite")
    assert refused.code == 4
    assert "trained to start at given boxes" in refused.err
    refused = mlkit("track", "seq", "--weights", "free.safetensors", "--det", "gt", "-o", "u.txt")
    assert refused.code == 4
    assert "find the objects itself" in refused.err


def test_the_source_rate_changes_nothing(mlkit: Mlkit, place: Path) -> None:
    command = ["track", "seq", "--det", "det", "--method", "sort", "-o", "-"]
    every, same, more = (mlkit(*command, *rate) for rate in ([], ["--fps", "10"], ["--fps", "30"]))
    assert every.raw == same.raw == more.raw
    assert "--fps 30 is more than seq has (10)" in more.err
    half = mlkit(*command, "--fps", "5")
    frames = {int(line.split(b",")[0]) for line in half.raw.splitlines()}
    assert frames == {1, 3, 5, 7, 9, 11}


def test_a_frame_without_boxes_is_an_empty_frame(mlkit: Mlkit, place: Path) -> None:
    (place / "some.txt").write_text("1,-1,10,10,20,20,1\n5,-1,10,10,20,20,1\n")
    done = mlkit("track", "seq", "--det", "some.txt", "--method", "iou", "-o", "-")
    assert [line.split(b",")[:2] for line in done.raw.splitlines()] == [[b"1", b"1"], [b"5", b"1"]]


def test_training_and_comparing(mlkit: Mlkit, place: Path) -> None:
    done = mlkit("train", "track", "seq", *TINY, "-o", "run", "--val", "0.3")
    assert done.code == 0, done.err
    assert {p.name for p in (place / "run").iterdir()} >= {
        "best.safetensors", "last.safetensors", "metrics.jsonl", "report.html", "run.toml"
    }  # fmt: skip
    staged = mlkit("train", "track", "seq", "--stage", "track", "--init", "run/best.safetensors",
                   "--steps", "2", "--clip-length", "2", "-o", "two")  # fmt: skip
    assert staged.code == 0, staged.err
    more = mlkit("train", "track", "--resume", "run", "--steps", "6", "seq")
    assert more.code == 0, more.err
    assert "changed: steps 4 -> 6" in more.err
    scored = mlkit("eval", "track", "seq", "--weights", "run/best.safetensors", "--every", "1,4",
                   "--plot", "rates.png")  # fmt: skip
    assert scored.code == 0, scored.err
    assert "HOTA" in scored.out
    side = mlkit("eval", "track", "seq", "--methods", "iou,sort", "--det", "gt", "--every", "1,2,4",
                 "--first", "3", "--last", "10", "--plot", "rates.png", "--metrics", "identity",
                 "--json")  # fmt: skip
    assert side.code == 0, side.err
    metrics = json.loads(side.out)["metrics"]
    assert set(metrics) == {"iou", "sort"}
    assert metrics["sort"]["1"]["seq"]["IDF1"] == 100
    assert (place / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_generated_videos_can_be_checked_and_scored(mlkit: Mlkit, place: Path) -> None:
    made = mlkit("data", "track-synth", "-o", "synth", "--videos", "2", "--frames", "8",
                 "--frame-width", "96", "--frame-height", "64")  # fmt: skip
    assert made.code == 0, made.err
    assert "mean IoU" in made.out
    checked = mlkit("check", "track", "synth", "--every", "1,4", "--json")
    assert checked.code == 0, checked.err
    found = json.loads(checked.out)["metrics"]
    assert set(found) == {"synth-0001", "synth-0002"}
    assert set(found["synth-0001"]["difficulty"]) == {"1", "4"}
    scored = mlkit("eval", "track", "synth", "--methods", "iou", "--det", "gt")
    assert " all " in scored.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["track", "none.mp4"], 3, "none.mp4 does not exist"),
        (["track", "broken.mp4"], 3, "broken.mp4 is not a readable video"),
        (["track", "empty"], 3, "empty holds no frames"),
        (["track", "seq", "--fps", "0"], 2, "--fps 0.0: input should be greater than 0"),
        (["track", "seq", "--fps", "-2"], 2, "--fps -2.0"),
        (["track", "seq", "--fps", "2", "--every", "3"], 2, "exclude each other"),
        (["track", "seq", "--method", "iou", "--det", "gt", "--weights", "w"], 2, "no --weights"),
        (["track", "seq", "--method", "iou", "--weights", "given.safetensors"], 4, "add --det"),
        (["track", "seq", "--method", "sorl"], 2, "sort"),
        (["track", "seq", "--det", "none.txt", "--method", "iou"], 3, "none.txt does not exist"),
        (["track", "seq", "--det", "late.txt", "--method", "iou"], 3, "frame 99 is beyond the 12"),
        (["track", "seq", "--det", "wide.txt", "--method", "iou"], 3, "wide.txt, line 2"),
        (["track", "seq", "--weights", "none.safetensors"], 4, "none.safetensors does not exist"),
        (
            ["track", "seq", "--weights", "free.safetensors", "--class", "dog"],
            2,
            "it knows: person",
        ),
        (["track", "seq", "--weights", "free.safetensors", "--history", "9"], 2, "trained with 3"),
        (["track", "seq", "--video", "a.gif"], 2, "must end in .mp4"),
        (["eval", "track", "none"], 3, "none does not exist"),
        (["eval", "track", "seq", "--weights", "given.safetensors"], 4, "add --det"),
        (["eval", "track", "seq", "--methods", "foo"], 2, "unknown tracker"),
        (["eval", "track", "seq", "--every", "0"], 2, "write intervals"),
        (["eval", "track", "seq", "--metrics", "map"], 2, "hota,clear,identity"),
        (
            ["eval", "track", "seq", "--first", "50", "--methods", "iou", "--det", "gt"],
            3,
            "no frame",
        ),
        (["eval", "track", "seq", "--results", "late.txt"], 3, "frame 99 is outside of seq"),
        (["eval", "track", "seq", "--results", "twice.txt"], 3, "occurs twice in frame 1"),
        (["eval", "track", "seq", "--results", "empty"], 3, "seq.txt does not exist"),
        (["train", "track", "seq", "--stage", "track"], 2, "add --init FILE"),
        (["train", "track", "seq", "--init", "free.safetensors", "--dim", "64"], 4, "64: free"),
        (["train", "track", "seq", "--dim", "64", "--heads", "7"], 2, "multiple of --heads 7"),
        (["train", "track", "none"], 3, "none does not exist"),
        (["check", "track", "seq", "--every", "x"], 2, "write intervals"),
        (["data", "track-synth", "--videos", "0"], 2, "--videos 0"),
        (["data", "track-synth", "--sprites", "empty"], 3, "empty holds no images"),
    ],
)
def test_bad_input_is_said_in_two_lines(
    mlkit: Mlkit, place: Path, arguments: list[str], code: int, said: str
) -> None:
    (place / "broken.mp4").write_text("no video")
    (place / "empty").mkdir()
    (place / "late.txt").write_text("99,1,1,1,30,30,1\n")
    (place / "wide.txt").write_text("1,1,1,1,30,30,1\n1,2,1\n")
    (place / "twice.txt").write_text("1,1,1,1,30,30,1\n1,1,9,9,30,30,1\n")
    before = sorted(place.rglob("*"))
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    assert len([line for line in result.err.splitlines() if "warning" not in line]) <= 2
    assert sorted(place.rglob("*")) == before


def test_the_detector_is_exported(mlkit: Mlkit, place: Path) -> None:
    done = mlkit("export", "free.safetensors", "-o", "detector.pt2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-3
    refused = mlkit("export", "given.safetensors", "-o", "detector.pt2")
    assert refused.code == 2
    assert "starts at given boxes" in refused.err


def test_the_demo_leaves_a_report_with_pictures(
    mlkit: Mlkit, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.tasks.track.handover.FRAMES", 30)
    monkeypatch.setattr("mlkit.tasks.track.handover.EVERY", "1,10")
    done = mlkit("demo", "track", "-o", "demo")
    assert done.code == 0, done.err
    assert {path.name for path in (place / "demo").iterdir()} == {
        "videos", "tracks.txt", "tracks.mp4", "rates.png", "frames.png", "report.html"
    }  # fmt: skip
    assert "image/png" in (place / "demo" / "report.html").read_text()
    assert mlkit("demo", "track", "-o", "demo").code == 3  # exists already
