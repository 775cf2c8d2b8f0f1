from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.core.video import writing_video
from mlkit.tasks.pretrain import handover

Mlkit = Callable[..., Any]
CLIP = ["--frames", "2", "--stride", "2", "--size", "16"]
NETWORK = ["--width", "0.25", "--dim", "8", "--hidden", "16"]
LEARN = [*CLIP, *NETWORK, "--epochs", "2", "--batch-size", "4"]


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ten videos of three kinds in two classes, and labels.csv."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = ["path,label,place"]
    for i in range(10):
        folder = Path("videos") / ("dark", "light")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        colour = random.integers(20, 60, 3) + 130 * (i % 2)
        frames = (colour + random.integers(0, 50, (8, 20, 24, 3))).astype(np.uint8)
        name = f"{folder}/{i}.{'mp4' if i < 2 else 'npy'}"
        if i < 2:
            with writing_video(name, 10) as writer:
                for frame in frames:
                    writer.add(frame)
        else:
            np.save(name, frames)
        rows.append(f"{name},{folder.name},{i % 3}")
    Path("labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_from_videos_to_scores(mlkit: Mlkit, videos: Path) -> None:
    before = {path: path.read_bytes() for path in Path("videos").rglob("*") if path.is_file()}
    learnt = mlkit("pretrain", "videos", *LEARN, "--clips", "3", "-o", "run", "--json")
    assert learnt.code == 0, learnt.err
    metrics = json.loads(learnt.out)["metrics"]
    assert metrics["videos"] == 10
    assert metrics["steps"] == 4
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "report.html"):
        assert (Path("run") / name).is_file()
    weights = ["--weights", "run/best.safetensors"]
    scored = mlkit("eval", "pretrain", "labels.csv", *weights, "--group-column", "place", "--json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)["metrics"]
    assert scores["same video"]["of"] == scores["linear"]["of"] == 10
    assert {"knn", "same group", "same label"} <= scores.keys()
    table = mlkit("eval", "pretrain", "labels.csv", *weights, "--compare", "run/best.safetensors")
    assert table.code == 0, table.err
    assert "linear probe, accuracy" in table.out
    made = mlkit("data", "video-features", "labels.csv", *weights, "-o", "f.npz", "--views", "2")
    assert made.code == 0, made.err
    with np.load("f.npz", allow_pickle=False) as held:
        assert held["features"].shape == (10, 32)
        assert held["views"].shape == (10, 2, 32)
        assert held["labels"].tolist() == ["dark", "light"] * 5
        assert held["place"].tolist() == [str(i % 3) for i in range(10)]
    again = mlkit("eval", "pretrain", "f.npz", "--group-column", "place", "--json")
    assert json.loads(again.out)["metrics"]["linear"]["of"] == 10
    piped = mlkit("data", "video-features", "labels.csv", *weights, "-o", "-", "--views", "2")
    with np.load(io.BytesIO(piped.raw)) as held:
        assert held["views"].shape == (10, 2, 32)
    shown = mlkit("info", "run/best.safetensors", "--json")
    assert json.loads(shown.out)["metrics"]["method"] == "pretrain"
    after = {path: path.read_bytes() for path in Path("videos").rglob("*") if path.is_file()}
    assert after == before  # nothing of the user's was touched


def test_fine_tuning_and_its_score(mlkit: Mlkit, videos: Path) -> None:
    assert mlkit("pretrain", "videos", *LEARN, "-o", "run").code == 0
    tune = ["train", "pretrain", "labels.csv", "--weights", "run/best.safetensors", "-o", "tuned"]
    done = mlkit(*tune, "--epochs", "8", "--batch-size", "5", "--val", "videos", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["best"] >= 0.5
    scored = mlkit("eval", "pretrain", "videos", "--weights", "tuned/best.safetensors", "--json")
    assert scored.code == 0, scored.err
    metrics = json.loads(scored.out)["metrics"]
    assert metrics["top1"]["of"] == 10
    assert metrics["top1"]["value"] == json.loads(done.out)["metrics"]["best"]
    refused = mlkit("data", "video-features", "videos", "--weights", "tuned/best.safetensors")
    assert refused.code == 2
    assert "is a classifier" in refused.err
    resumed = mlkit("train", "pretrain", "labels.csv", "--resume", "tuned", "--epochs", "9")
    assert resumed.code == 0, resumed.err


def test_the_options_of_a_run_come_back(mlkit: Mlkit, videos: Path) -> None:
    assert mlkit("pretrain", "videos", *LEARN, "--method", "byol", "-o", "run").code == 0
    again = mlkit("pretrain", "videos", "--resume", "run", "--epochs", "3", "--json")
    assert again.code == 0, again.err
    assert "changed: epochs 2 -> 3" in again.err
    assert json.loads(again.out)["metrics"]["steps"] == 6
    same = mlkit("pretrain", "videos", "--config", "run/run.toml", "-o", "twin", "--epochs", "2")
    assert same.code == 0, same.err
    assert 'method = "byol"' in Path("twin/run.toml").read_text()


def test_checking(mlkit: Mlkit, videos: Path) -> None:
    Path("videos/dark/x.mp4").write_bytes(b"broken")
    done = mlkit("check", "pretrain", "videos", "--frames", "8", "--stride", "1", "--json")
    assert done.code == 3
    document = json.loads(done.out)
    assert document["metrics"]["videos"] == 10
    assert document["metrics"]["too short"] == 10
    assert document["metrics"]["classes"] == {"dark": 6, "light": 5}
    assert list(document["failures"]) == ["dark/x.mp4"]


@pytest.mark.parametrize("container", ["npy", "mp4"])
def test_generated_videos(mlkit: Mlkit, videos: Path, container: str) -> None:
    command = ["data", "sprite-videos", "--videos", "4", "--length", "5", "--side", "24"]
    done = mlkit(*command, "--container", container, "-o", "s", "--json")
    assert done.code == 0, done.err
    lines = Path("s/labels.csv").read_text().splitlines()
    assert lines[0] == "path,label,motion"
    assert len(lines) == 5
    checked = mlkit("check", "pretrain", "s/labels.csv", "--frames", "2", "--json")
    assert json.loads(checked.out)["metrics"]["frames"] == 20
    first = Path("s/labels.csv").read_bytes()
    assert mlkit(*command, "--container", container, "-o", "s").code == 3
    assert mlkit(*command, "--container", container, "-o", "s", "--overwrite").code == 0
    assert Path("s/labels.csv").read_bytes() == first


def test_pictures_of_ones_own_move(mlkit: Mlkit, videos: Path, class_folder: Path) -> None:
    done = mlkit("data", "sprite-videos", class_folder, "--videos", "6", "--length", "3", "-o", "s")
    assert done.code == 0, done.err
    labels = {line.split(",")[1] for line in Path("s/labels.csv").read_text().splitlines()[1:]}
    assert labels <= {"red", "blue"}


def test_people_are_cut_out(mlkit: Mlkit, videos: Path) -> None:
    from PIL import Image

    Path("MOT/gt").mkdir(parents=True)
    Path("MOT/img1").mkdir()
    rows = []
    for frame in range(1, 7):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[10:30, 5 * frame : 5 * frame + 10] = 200  # walks to the right
        Image.fromarray(pixels).save(f"MOT/img1/{frame:06d}.png")
        rows.append(f"{frame},7,{5 * frame + 1},11,10,20,1,1,1")
        rows.append(f"{frame},8,1,1,10,20,0,1,1")  # does not count
        rows.append(f"{frame},9,1,1,10,20,1,3,1")  # is no pedestrian
    Path("MOT/gt/gt.txt").write_text("\n".join(rows) + "\n")
    cut = ["data", "tracklets", "MOT", "-o", "people", "--min-length", "3"]
    done = mlkit(*cut, "--first", "2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"] == {"people": 1, "frames": 5}
    person = np.load("people/videos/MOT-0007.npy")
    assert person.shape == (5, 48, 24, 3)
    assert person.min() == 200  # follows exactly
    assert mlkit(*cut[:-1], "50").code == 3
    Path("MOT/gt/gt.txt").write_text("no,table\n1,2,3\n")
    broken = mlkit(*cut, "--overwrite")
    assert broken.code == 3
    assert "gt.txt is no table of boxes" in broken.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pretrain", "empty"], 3, "holds no videos"),
        (["pretrain", "nowhere"], 3, "nowhere does not exist"),
        (["pretrain", "broken"], 3, "3 of 3 videos cannot be read"),
        (["pretrain", "videos", "--clips", "0"], 2, "--clips 0"),
        (["pretrain", "videos", "--metod", "byol"], 2, "--method"),
        (["pretrain", "videos", "--crop-min", "0.9", "--crop-max", "0.5"], 2, "--crop-min 0.9"),
        (["pretrain", "videos", *CLIP, "--batch-size", "1"], 2, "nothing to compare"),
        (["pretrain", "videos", *CLIP, "--method", "moco", "--queue", "11"], 2, "--queue 11"),
        (["pretrain", "videos", "--frames", "8"], 3, "all 10 videos are no longer than a clip"),
        (["pretrain", "wrong.csv"], 3, "1 of 1 videos do not exist: gone.mp4"),
        (["eval", "pretrain", "labels.csv"], 2, "no weights were given"),
        (["eval", "pretrain", "one.csv", "--random-init", *CLIP], 3, "has a single class: a"),
        (
            ["eval", "pretrain", "labels.csv", "--random-init", *CLIP, "--group-column", "city"],
            2,
            "--group-column city",
        ),
        (["eval", "pretrain", "labels.csv", "--weights", "labels.csv"], 4, "labels.csv"),
        (["eval", "pretrain", "bad.npz"], 3, "bad.npz is not a readable .npz"),
        (["eval", "pretrain", "empty.npz"], 3, "holds no finite features"),
        (["data", "video-features", "videos", "--random-init", "-o", "f.csv"], 2, "must end in"),
        (["train", "pretrain", "labels.csv"], 2, "no weights were given"),
        (["check", "pretrain", "broken"], 3, "no video can be read"),
        (["data", "tracklets", "videos"], 3, "gt.txt does not exist"),
    ],
)
def test_bad_input(mlkit: Mlkit, videos: Path, arguments: list[str], code: int, said: str) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    for i in range(3):
        (Path("broken") / f"{i}.mp4").write_bytes(b"no video")
    Path("wrong.csv").write_text("path,label\ngone.mp4,a\n")
    Path("one.csv").write_text("path,label\nvideos/dark/2.npy,a\nvideos/dark/4.npy,a\n")
    Path("bad.npz").write_bytes(b"PK nothing")
    np.savez("empty.npz", other=np.zeros(3))
    done = mlkit(*arguments)
    assert done.code == code, done.err
    assert said in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert not list(Path().glob("runs/*/*.safetensors"))


def test_a_loss_that_is_not_finite_stops_the_run(mlkit: Mlkit, videos: Path) -> None:
    failed = mlkit("pretrain", "videos", *LEARN, "--lr", "1e30", "--epochs", "30", "-o", "run",
                   "--json")  # fmt: skip
    assert failed.code == 3
    error = json.loads(failed.out)["error"]
    assert error["kind"] == "diverged"
    assert "--lr" in error["hint"]


def test_the_demo_and_the_export(
    mlkit: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "VIDEOS", 12)
    monkeypatch.setattr(handover, "EPOCHS", 2)
    done = mlkit("demo", "pretrain", "-o", tmp_path / "demo", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["videos"] == 12
    assert (tmp_path / "demo" / "neighbours.png").read_bytes().startswith(b"\x89PNG")
    weights = tmp_path / "demo" / "run" / "best.safetensors"
    program = mlkit("export", weights, "-o", tmp_path / "m.pt2", "--json")
    assert program.code == 0, program.err
    assert json.loads(program.out)["metrics"]["relative_difference"] < 1e-3
    again = mlkit("demo", "pretrain", "-o", tmp_path / "demo")
    assert again.code == 3
    assert mlkit("demo", "pretrain", "-o", tmp_path / "demo", "--overwrite").code == 0
