from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.tasks.labelnoise import apply, handover

Mlkit = Callable[..., Any]
QUICK = ["--image-size", "12", "--epochs", "20", "--folds", "2", "--batch-size", "32"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "LEAST_STEPS", 40)
    monkeypatch.setattr(handover, "SIZES", {"circle": 60, "square": 30, "cross": 12})


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with drawn shapes and labels.csv (path, label, true_label)."""
    monkeypatch.chdir(tmp_path)
    handover.draw_shapes(Path("."), 0)
    return tmp_path


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Probabilities, features and labels of 300 samples, of which 30 are labelled wrongly."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 100)
    labels = truth.copy()
    labels[:30] = 2
    logits = 5 * np.eye(3)[truth] + random.normal(size=(300, 3))
    np.save("logits.npy", logits)
    np.save("p.npy", np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    np.save("z.npy", 5 * np.eye(3)[truth] + random.normal(size=(300, 3)))
    Path("y.csv").write_text("label\n" + "\n".join(map(str, labels)) + "\n")
    np.save("y.npy", labels)
    return ["--probs", "p.npy", "--features", "z.npy", "--labels", "y.csv"]


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_is_looked_through(mlkit: Mlkit, shapes: Path) -> None:
    before = {path: path.read_bytes() for path in shapes.rglob("*") if path.is_file()}
    command = ["labelnoise", "labels.csv", *QUICK, "--html", "sheet.html", "--summary", "s.json"]
    done = mlkit(*command, "-o", "report.csv", "--cleaned", "c.csv", "--copy-to", "look",
                 "--no-guard")  # fmt: skip
    assert done.code == 0, done.err
    assert "labels look wrong" in done.out
    assert "have not seen" in done.out
    rows = records(Path("report.csv").read_text())
    assert len(rows) == 102
    assert [int(row["rank"]) for row in rows] == list(range(1, 103))
    flags = [row["is_issue"] == "true" for row in rows]
    assert flags == sorted(flags, reverse=True)
    doubts = [float(row["doubt"]) for row in rows if row["is_issue"] == "true"]
    assert doubts == sorted(doubts, reverse=True)
    page = Path("sheet.html").read_text()
    assert page.count("data:image/jpeg") == min(200, sum(flags))
    assert sum(1 for path in Path("look").rglob("*") if path.is_file()) == sum(flags)
    assert len(records(Path("c.csv").read_text())) == 102 - sum(flags)
    summary = json.loads(Path("s.json").read_text())
    assert sum(row["images"] for row in summary["classes"]) == 102
    # Nothing of the user's was touched.
    assert all(path.read_bytes() == data for path, data in before.items())
    again = mlkit(*command, "-o", "report.csv")
    assert again.code == 3
    assert "exists already" in again.err
    refused = mlkit("labelnoise", "labels.csv", *QUICK, "-o", "r.csv", "--copy-to", "look")
    assert refused.code == 3
    assert "not empty" in refused.err


def test_the_cleaned_table_and_the_folder_are_inputs_again(mlkit: Mlkit, shapes: Path) -> None:
    done = mlkit("labelnoise", "shapes", *QUICK, "--cleaned", "c.csv", "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics["images"] == 102
    assert mlkit("check", "labelnoise", "c.csv").code == 0


def test_arrays_of_another_model(mlkit: Mlkit, arrays: list[str]) -> None:
    done = mlkit("labelnoise", *arrays, "-o", "report.csv", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["metrics"]
    rows = records(Path("report.csv").read_text())
    flagged = {int(row["path"]) for row in rows if row["is_issue"] == "true"}
    assert flagged == set(range(30))
    assert {row["suggested_label"] for row in rows[:30]} == {"0"}
    assert found["classes"][2]["flagged"] == 30
    piped = mlkit("labelnoise", *arrays, "-o", "-")
    assert records(piped.out) == rows
    logits = ["--probs", "logits.npy", "--logits", "--features", "z.npy", "--labels", "y.npy"]
    again = mlkit("labelnoise", *logits, "-o", "-")
    assert [row["path"] for row in records(again.out)[:30]] == [row["path"] for row in rows[:30]]
    few = mlkit("labelnoise", *arrays, "-o", "few.csv", "--max-flags", "5", "--json")
    assert json.loads(few.out)["metrics"]["flagged"] == 5


@pytest.mark.parametrize("selector", ["wjsd", "acd", "jsd", "gmm-loss", "keep", "cleanlab"])
def test_every_selector_is_behind_one_switch(
    mlkit: Mlkit, arrays: list[str], selector: str
) -> None:
    if selector == "cleanlab":
        pytest.importorskip("cleanlab")
    done = mlkit("labelnoise", *arrays, "--selector", selector, "-o", "-", "--no-guard")
    assert done.code == 0, done.err
    flagged = {int(r["path"]) for r in records(done.out) if r["is_issue"] == "true"}
    least = 0 if selector == "keep" else 20
    assert len(flagged & set(range(30))) >= least
    assert (flagged == set()) == (selector == "keep")


def test_noise_is_made_found_and_scored(mlkit: Mlkit, shapes: Path) -> None:
    made = mlkit("data", "noisy-labels", "shapes", "--imbalance", "0.5", "--noise", "sym:0.3",
                 "-o", "noisy.csv", "--json")  # fmt: skip
    assert made.code == 0, made.err
    rows = records(Path("noisy.csv").read_text())
    wrong = sum(row["label"] != row["true_label"] for row in rows)
    assert json.loads(made.out)["metrics"]["wrong"] == wrong
    assert mlkit("data", "noisy-labels", "shapes", "-o", "noisy.csv").code == 3
    first = Path("noisy.csv").read_bytes()
    mlkit("data", "noisy-labels", "shapes", "--imbalance", "0.5", "--noise", "sym:0.3",
          "-o", "noisy.csv", "--overwrite")  # fmt: skip
    assert Path("noisy.csv").read_bytes() == first
    assert mlkit("labelnoise", "noisy.csv", *QUICK, "-o", "out/report.csv").code == 0
    scored = mlkit("eval", "labelnoise", "out/report.csv", "--truth", "noisy.csv", "--json")
    assert scored.code == 0, scored.err
    metrics = json.loads(scored.out)["metrics"]
    assert (metrics["samples"], metrics["wrong"]) == (len(rows), wrong)
    assert 0 <= metrics["AUROC"] <= 1
    np.savetxt("matrix.csv", np.roll(np.eye(3), 1, axis=1), delimiter=",")
    turned = mlkit(
        "data", "noisy-labels", "shapes", "--noise", "matrix.csv", "-o", "t.csv", "--json"
    )
    assert json.loads(turned.out)["metrics"]["rate"] == 1


def test_train_and_eval(mlkit: Mlkit, shapes: Path) -> None:
    command = ["train", "labelnoise", "labels.csv", "--val", "shapes", "--image-size", "12"]
    done = mlkit(*command, "--epochs", "2", "--warmup-epochs", "1", "-o", "run")
    assert done.code == 0, done.err
    assert "balanced accuracy on shapes" in done.out
    scored = mlkit("eval", "labelnoise", "shapes", "--weights", "run/best.safetensors", "--json")
    assert scored.code == 0, scored.err
    metrics = json.loads(scored.out)["metrics"]
    assert set(metrics) == {"top1", "balanced", "many", "medium", "few", "recall"}
    info = mlkit("info", "run/best.safetensors")
    assert "labelnoise" in info.out
    resumed = mlkit(*command[:3], "--resume", "run", "--epochs", "3")
    assert resumed.code == 0, resumed.err
    assert "changed: epochs" in resumed.err


@pytest.mark.filterwarnings("ignore")
def test_the_classifier_is_exported(mlkit: Mlkit, shapes: Path) -> None:
    command = ["train", "labelnoise", "labels.csv", "--image-size", "12", "--steps", "1"]
    assert mlkit(*command, "-o", "run").code == 0
    done = mlkit("export", "run/best.safetensors", "-o", "m.pt2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-3


def test_check_tells_what_is_odd(mlkit: Mlkit, shapes: Path) -> None:
    twin = (shapes / "shapes/circle/001.png").read_bytes()
    (shapes / "shapes/square/twin.png").write_bytes(twin)
    (shapes / "shapes/square/broken.png").write_bytes(twin[:60])
    (shapes / "shapes/lonely").mkdir()
    (shapes / "shapes/lonely/one.png").write_bytes((shapes / "shapes/cross/000.png").read_bytes())
    done = mlkit("check", "labelnoise", "shapes")
    assert done.code == 3
    for word in ("twin.png", "will not be judged: lonely", "broken.png"):
        assert word in done.out + done.err
    scan = mlkit("labelnoise", "shapes", *QUICK, "-o", "r.csv")
    assert scan.code == 0, scan.err
    for word in ("cannot be read and were skipped", "different labels", "not judged: lonely"):
        assert word in scan.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["labelnoise"], 2, "give DATA, or --probs"),
        (["labelnoise", "--probs", "p.npy"], 2, "together"),
        (["labelnoise", "x", "--labels", "y.csv"], 2, "exclude each other"),
        (["labelnoise", "x", "--folds", "1"], 2, "--folds 1"),
        (["labelnoise", "x", "-o", "x.pdf"], 2, "must end in .csv"),
        (["labelnoise", "none"], 3, "none does not exist"),
        (["labelnoise", "lone"], 3, "has one class, a"),
        (["labelnoise", "hollow"], 3, "is an empty class folder"),
        (["labelnoise", "bad.csv"], 3, "files do not exist: x.png"),
        (["labelnoise", "columns.csv"], 3, "no label column"),
        (["labelnoise", "--probs", "p.npy", "--features", "z.npy", "--labels", "short.npy"], 3,
         "different lengths: --probs 300, --features 300, --labels 299"),
        (["labelnoise", "--probs", "nan.npy", "--features", "z.npy", "--labels", "y.npy"], 3,
         "row 7 holds NaN"),
        (["labelnoise", "--probs", "p.npy", "--features", "nan.npy", "--labels", "y.npy"], 3,
         "nan.npy: row 7 holds NaN"),
        (["labelnoise", "--probs", "logits.npy", "--features", "z.npy", "--labels", "y.npy"], 3,
         "pass --logits"),
        (["labelnoise", "--probs", "p.npy", "--features", "z.npy", "--labels", "far.npy"], 3,
         "label 3 in row 5 is not in 0..2"),
        (["labelnoise", "--probs", "p.npy", "--features", "z.npy", "--labels", "gone.npy"], 3,
         "gone.npy does not exist"),
        (["train", "labelnoise", "lone"], 3, "has one class"),
        (["train", "labelnoise", "lone", "--lambda-u", "much"], 2, "give auto, or a number"),
        (["train", "labelnoise", "lone", "--warmup-epochs", "0"], 2, "--warmup-epochs 0"),
        (["train", "labelnoise", "shapes", "--resume", "nowhere"], 4, "nothing to resume"),
        (["eval", "labelnoise", "lone"], 2, "--truth to score a report"),
        (["eval", "labelnoise", "lone", "--weights", "no.safetensors"], 4, "does not exist"),
        (["eval", "labelnoise", "columns.csv", "--truth", "bad.csv"], 3, "no column"),
        (["data", "noisy-labels", "lone", "--noise", "sym:2"], 2, "between 0 and 1"),
        (["data", "noisy-labels", "shapes", "--noise", "odd.csv"], 3, "each row must hold"),
        (["data", "noisy-labels", "shapes", "--noise", "two.csv"], 3, "the data have 3 classes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit, shapes: Path, arrays: list[str], arguments: list[str], code: int, said: str
) -> None:
    picture = (shapes / "shapes/cross/000.png").read_bytes()
    for folder in ("lone/a", "hollow/a", "hollow/b"):
        (shapes / folder).mkdir(parents=True)
    for path in ("lone/a/1.png", "hollow/a/1.png"):
        (shapes / path).write_bytes(picture)
    (shapes / "bad.csv").write_text("path,label\nx.png,a\n")
    (shapes / "columns.csv").write_text("path,kind\nx.png,a\n")
    np.save("short.npy", np.zeros(299, int))
    np.save("nan.npy", np.where(np.arange(300)[:, None] == 7, np.nan, np.load("p.npy")))
    np.save("far.npy", np.where(np.arange(300) == 5, 3, 0))
    np.savetxt("odd.csv", np.ones((3, 3)), delimiter=",")
    np.savetxt("two.csv", np.eye(2), delimiter=",")
    before = set(shapes.iterdir())
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
    assert set(shapes.iterdir()) - before <= {shapes / "nowhere"}


def test_the_demo_leaves_a_page(mlkit: Mlkit, shapes: Path) -> None:
    result = mlkit("demo", "labelnoise", "-o", "demo")
    assert result.code == 0, result.err
    assert (shapes / "demo" / "report.html").exists()
    assert "drawn" in result.out
    assert mlkit("demo", "labelnoise", "-o", "demo").code == 3
