from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tasks.zeroshot.helpers import write_workshop

Mlkit = Callable[..., Any]
MODEL = ["--factory", "net:build"]
GRAPH = ["--graph", "tree.tsv", "--seen", "seen.txt", "--semantic", "words.txt"]
TRAIN = [
    "train", "zeroshot", *GRAPH, *MODEL, "--classes", "unseen.txt", "--backbone-weights", "net.pth",
    "--hidden", "8", "--epochs", "6", "--save-every", "3",
]  # fmt: skip
WEIGHTS = ["--weights", "run/best.safetensors", *MODEL]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small world of colours, which is also the current folder."""
    write_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)
    return tmp_path


@pytest.fixture
def trained(mlkit: Mlkit, workshop: Path) -> Path:
    done = mlkit(*TRAIN, "-o", "run")
    assert done.code == 0, done.err
    assert "Rows of the seen classes" in done.out
    assert "equal; --images DIR chooses them" in done.out
    return workshop


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_photo_as_table_json_csv_and_in_a_pipe(mlkit: Mlkit, trained: Path) -> None:
    ask = ["zeroshot", "photos/white/0.png", "--classes", "unseen.txt", *WEIGHTS]
    shown = mlkit(*ask)
    assert shown.code == 0, shown.err
    for word in ("white", "yellow", "closest seen class", "2 candidates, scored by ensemble"):
        assert word in shown.out
    document = json.loads(mlkit(*ask, "--json").out)
    classes = document["metrics"]["images"][0]["classes"]
    assert [row["rank"] for row in classes] == [1, 2]
    assert {"class", "wnid", "score", "rank"} <= classes[0].keys()
    piped = mlkit(*ask, "-o", "-")
    assert [row["class"] for row in records(piped.out)] == [row["class"] for row in classes]
    data = (trained / "photos" / "white" / "0.png").read_bytes()
    stdin = mlkit("zeroshot", "-", *ask[2:], "-o", "-", stdin=data)
    assert [r["score"] for r in records(stdin.out)] == [r["score"] for r in records(piped.out)]
    alone = mlkit("zeroshot", "photos/white/0.png", "--among", "white,yellow", *WEIGHTS, "-o", "-")
    assert records(alone.out) == records(piped.out)


def test_a_folder_with_a_broken_photo(mlkit: Mlkit, trained: Path) -> None:
    (trained / "photos" / "white" / "bad.png").write_bytes(b"no picture")
    ask = ["zeroshot", "photos/white", "--classes", "unseen.txt", "--with-seen", *WEIGHTS]
    done = mlkit(*ask, "-o", "a.jsonl", "--plot", "a.png", "-k", "3")
    assert done.code == 3
    assert "skipped: photos/white/bad.png is not a readable image" in done.err
    lines = [json.loads(line) for line in (trained / "a.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(len(line["classes"]) == 3 for line in lines)
    assert (trained / "a.png").read_bytes().startswith(b"\x89PNG")
    assert mlkit(*ask, "--strict").code == 3
    assert mlkit(*ask, "-o", "a.jsonl").code == 3  # exists already
    many = mlkit("zeroshot", "photos/red", *ask[2:])
    assert "Best classes" in many.out


def test_explain_shows_the_way_and_the_attention(mlkit: Mlkit, trained: Path) -> None:
    shown = mlkit("zeroshot", "--explain", "yellow", *WEIGHTS)
    assert shown.code == 0, shown.err
    for word in ("Way to the root", "bright", "Closest seen classes", "Attention by distance"):
        assert word in shown.out
    metrics = json.loads(mlkit("zeroshot", "--explain", "yellow", *WEIGHTS, "--json").out)[
        "metrics"
    ]
    assert metrics["path"][0] == "yellow"
    assert metrics["path"][-1] == "colour"
    assert metrics["closest_seen"][0] == {
        "class": "green", "wnid": "green", "steps": 1,
        "likeness": metrics["closest_seen"][0]["likeness"],
    }  # fmt: skip
    assert sum(row["ancestors_attention"] for row in metrics["attention"]) == pytest.approx(1)
    assert [row["ancestors"] for row in metrics["attention"]] == [1, 2, 1, 0, 0]
    close = mlkit("zeroshot", "--explain", "yelow", *WEIGHTS)
    assert close.code == 3
    assert "similar: yellow" in close.err


def test_eval_prints_every_baseline(mlkit: Mlkit, trained: Path) -> None:
    rows = ["file,class"] + [
        f"photos/{name}/{i}.png,{name}" for name in ("white", "yellow") for i in range(6)
    ]
    (trained / "labels.csv").write_text("\n".join(rows))
    done = mlkit("eval", "zeroshot", "labels.csv", *WEIGHTS, "--generalised", "--plot", "e.png",
                 "--json")  # fmt: skip
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics["photos"] == 12
    settings = ("unseen", "generalised, predicted seen rows", "generalised, true seen rows")
    for setting in settings:
        assert list(metrics[setting]) == ["ensemble", "adgpm", "ancestor", "conse", "ridge"]
        for row in metrics[setting].values():
            assert 0 <= row["hit@1"] <= row["hit@5"] <= 1
            assert 0 <= row["hp@5"] <= 1
    assert metrics["unseen"]["adgpm"]["hit@2"] == 1
    shown = mlkit("eval", "zeroshot", "labels.csv", *WEIGHTS, "--classes", "unseen.txt")
    assert "ConSE" in shown.out or "conse" in shown.out
    folder = mlkit("eval", "zeroshot", "photos", *WEIGHTS, "--classes", "unseen.txt", "--json")
    assert json.loads(folder.out)["metrics"]["photos"] == 12
    assert "24 photos of classes that are no candidates are left out" in folder.err


def test_rows_are_written_and_read(mlkit: Mlkit, trained: Path) -> None:
    for name in ("rows.pred", "rows.safetensors"):
        done = mlkit("data", "zeroshot-rows", *WEIGHTS, "--classes", "unseen.txt", "-o", name)
        assert done.code == 0, done.err
        ask = ["zeroshot", "photos/white/0.png", "--classes", "unseen.txt", "-o", "-"]
        own = mlkit(*ask, *WEIGHTS, "--by", "graph")
        read = mlkit(*ask, *WEIGHTS, "--by", "graph", "--rows", name)
        assert records(read.out) == records(own.out)
    named = ["--backbone-weights", "net.pth", "--rows", name]
    other = mlkit(*ask, *WEIGHTS, "--by", "graph", *named)
    assert other.code == 0, other.err
    assert records(other.out) == records(own.out)
    found = torch.load("rows.pred", weights_only=True)
    assert found["wnids"] == ["white", "yellow"]
    assert found["pred"].shape == (2, 7)


def test_check_counts_the_graph(mlkit: Mlkit, workshop: Path) -> None:
    done = mlkit("check", "zeroshot", *GRAPH, "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert (metrics["nodes"], metrics["edges"], metrics["roots"]) == (9, 9, 1)
    assert metrics["without_vector"] == 0


def test_the_mixture_is_tuned_on_photos(mlkit: Mlkit, workshop: Path) -> None:
    """Four classes are too few to hold a fifth of them out: said in two lines."""
    for name in ("white", "yellow"):
        for file in (workshop / "photos" / name).iterdir():
            file.unlink()
    done = mlkit(*TRAIN, "--images", "photos", "-o", "run")
    assert done.code == 3
    assert "only 0 photos show one of the 0 held-out classes" in done.err


@pytest.mark.filterwarnings("ignore")
def test_fine_tune_and_export(mlkit: Mlkit, trained: Path) -> None:
    (trained / "labels.csv").write_text(
        "file,class\n" + "\n".join(f"photos/red/{i}.png,red" for i in range(6))
    )
    tuned = mlkit("train", "zeroshot-finetune", "labels.csv", *WEIGHTS, "--epochs", "2",
                  "--batch-size", "3", "-o", "tuned")  # fmt: skip
    assert tuned.code == 0, tuned.err
    assert "Seen photos" in tuned.out
    done = mlkit("export", "tuned/best.safetensors", "-o", "m.pt2", *MODEL, "--json")
    assert done.code == 0, done.err + done.out
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["zeroshot"], 2, "give photos, or --explain CLASS"),
        (["zeroshot", "a.png"], 2, "--classes FILE or with --among"),
        (["zeroshot", "a.png", "--among", "x", "--classes", "unseen.txt"], 2, "--classes FILE or"),
        (["zeroshot", "a.png", "--explain", "x"], 2, "--explain takes no photos"),
        (["zeroshot", "a.png", "--among", "red", "-o", "x.pdf"], 2, "must end in .csv or .jsonl"),
        (["zeroshot", "a.png", "--among", "red", "-k", "0"], 2, "--top 0"),
        (["zeroshot", "a.png", "--among", "red", "--by", "luck"], 2, "luck"),
        (["zeroshot", "a.png", "--among", "red", "--by", "ridge", "--rows", "r"], 2, "no part in"),
        (["zeroshot", "a.png", "--among", "red", "--weights", "no"], 4, "no does not exist"),
        (["zeroshot", "a.png", "--among", "red", *WEIGHTS], 3, "a.png does not exist"),
        (["zeroshot", "a.png", "--among", "rde", *WEIGHTS], 3, "--among: 'rde' is not in"),
        (["zeroshot", "a.png", "--among", ",", *WEIGHTS], 3, "--among names no class"),
        (["zeroshot", "a.png", "--classes", "none.txt", *WEIGHTS], 3, "cannot read none.txt"),
        (["zeroshot", "bad.png", "--among", "red", *WEIGHTS], 3, "bad.png is not a readable image"),
        (["zeroshot", "a.png", "--among", "red", *WEIGHTS, "--device", "cuda:99"], 5, "cuda:99"),
        (["zeroshot", "a.png", "--among", "red", *WEIGHTS, "--backbone", "resnet18"], 2, "--rows"),
        (["zeroshot", "a.png", "--among", "red", *WEIGHTS[:2]], 4, "--factory"),
        (["eval", "zeroshot", "photos", *WEIGHTS, "--classes", "2-hops"], 3, "knows none of these"),
        (["eval", "zeroshot", "empty.csv", *WEIGHTS], 3, "empty.csv is empty"),
        (["eval", "zeroshot", "odd.csv", *WEIGHTS], 3, "no class column"),
        (["data", "zeroshot-rows", *WEIGHTS, "-o", "rows.txt"], 2, "must end in .pred"),
        (["train", "zeroshot", "--graph", "cycle.tsv", "--seen", "seen.txt"], 3, "has a cycle"),
        (["train", "zeroshot", "--graph", "tree.tsv"], 2, "needs --seen FILE"),
        (["train", "zeroshot", "--variant", "sgcn"], 2, "sgcn"),
        (["train", "zeroshot", "--resume", "nowhere", *TRAIN[2:]], 4, "nothing to resume"),
        ([*TRAIN, "-o", "run"], 2, "holds a run already"),
        ([*TRAIN, "-o", "x", "--backbone-weights", "wide.pth"], 4, "does not fit the model"),
        (["check", "zeroshot", "--graph", "missing.tsv"], 3, "cannot read missing.tsv"),
        (["train", "zeroshot-finetune", "photos", *WEIGHTS, "-o", "y"], 3, "not a seen class"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit, workshop: Path, arguments: list[str], code: int, said: str
) -> None:
    needs_model = "run/best.safetensors" in arguments or arguments[-1] == "run"
    if needs_model:
        assert mlkit(*TRAIN, "-o", "run").code == 0
    (workshop / "bad.png").write_bytes(b"no picture")
    (workshop / "empty.csv").touch()
    (workshop / "odd.csv").write_text("file,colour\na.png,red\n")
    (workshop / "cycle.tsv").write_text("red\tgreen\ngreen\tred\n")
    torch.save({"4.weight": torch.zeros(4, 9)}, workshop / "wide.pth")
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines


def test_a_name_with_several_senses_is_asked_back(mlkit: Mlkit, workshop: Path) -> None:
    (workshop / "unseen.txt").write_text("okapi\ncrane\n")
    done = mlkit("check", "zeroshot", "--classes", "unseen.txt")
    assert done.code == 3
    assert "unseen.txt line 2: 'crane' has 5 senses: n0" in done.err
    assert "write the id of one of them" in done.err


def test_the_embedded_model_knows_a_cat(mlkit: Mlkit, workshop: Path) -> None:
    done = mlkit("demo", "zeroshot", "-o", "demo", "--json")
    assert done.code == 0, done.err
    images = json.loads(done.out)["metrics"]["images"]
    assert images[0]["classes"][0]["wnid"] == "n02121808"
    page = (workshop / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert mlkit("demo", "zeroshot", "-o", "demo").code == 3
