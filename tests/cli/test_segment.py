from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.core.checkpoint import Metadata, save
from mlkit.tasks.segment import handover
from mlkit.tasks.segment.checkpoint import save_model
from mlkit.tasks.segment.config import ModelOptions, SynthConfig
from mlkit.tasks.segment.model import Segmenter
from mlkit.tasks.segment.synth import synthesise
from mlkit.tasks.segment.text import Vocabulary

Mlkit = Callable[..., Any]
SENTENCE = "the red circle"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photograph, a generated world and an untrained model."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    synthesise(SynthConfig(out=folder / "world", scenes=10, test_scenes=3, image_size=32))
    torch.manual_seed(0)
    words = Vocabulary.build(["the red circle left of the blue square", "the leftmost shape"])
    model = Segmenter(ModelOptions(image_size=32), len(words))
    torch.nn.init.zeros_(model.score.bias)  # type: ignore[arg-type]
    save_model(folder / "m.safetensors", model, words, {"metrics": {"score": 0.5}})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of `made`."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_one_sentence(mlkit: Mlkit, folder: Path) -> None:
    command = ["segment", "photo.png", SENTENCE, "--weights", "m.safetensors"]
    done = mlkit(*command, "--overlay", "o.jpg", "--prob", "p.npy")
    assert done.code == 0, done.err
    assert SENTENCE in done.out
    prob, mask = np.load("p.npy"), np.array(Image.open("mask.png"))
    assert prob.shape == mask.shape == (40, 60)
    assert np.array_equal(mask > 0, prob > 0.5)
    assert set(np.unique(mask).tolist()) <= {0, 255}
    assert size_of("o.jpg") == (60, 40)
    again = mlkit(*command)
    assert again.code == 3
    assert "exists already" in again.err
    level = float(np.median(prob))
    strict = mlkit(*command, "-o", "s.png", "--prob", "p.png", "--threshold", level, "--json")
    found = json.loads(strict.out)["metrics"]["found"][0]
    assert found["area"] == int((np.array(Image.open("s.png")) > 0).sum())
    assert 0 < found["area"] < 2400
    assert found["box"] is not None
    assert level < found["confidence"] <= found["peak"]
    deep = np.array(Image.open("p.png")).astype(float) / 65535
    np.testing.assert_allclose(deep, prob, atol=1e-4)


def test_the_embedded_model_finds_shapes_and_says_what_it_is(mlkit: Mlkit, folder: Path) -> None:
    scored = mlkit("eval", "segment", "world/refs.jsonl", "--split", "val", "--json")
    assert scored.code == 0, scored.err
    kinds = json.loads(scored.out)["metrics"]["embedded"]["model"]
    assert kinds["attr"]["overall"] > 0.5
    done = mlkit("segment", "world/images/val-00000.png", "the leftmost shape")
    assert done.code == 0, done.err
    assert "knows generated shapes alone" in done.err
    refused = mlkit("segment", "photo.png", "the man in the coat", "-o", "x.png")
    assert refused.code == 3
    assert "vocabulary: man, in, coat" in refused.err


def test_pipes(mlkit: Mlkit, folder: Path) -> None:
    data = Path("photo.png").read_bytes()
    done = mlkit("segment", "-", SENTENCE, "--weights", "m.safetensors", "-o", "-", stdin=data)
    assert done.code == 0, done.err
    assert Image.open(io.BytesIO(done.raw)).size == (60, 40)
    both = mlkit("segment", "-", SENTENCE, "--weights", "m.safetensors", "-o", "-", "--json")
    assert both.code == 2


def test_many_sentences_and_many_photographs(mlkit: Mlkit, folder: Path) -> None:
    command = ["segment", "photo.png", SENTENCE, "the blue whale", "--weights", "m.safetensors"]
    done = mlkit(*command, "-o", "masks", "--overlay", "o.png")
    assert done.code == 0, done.err
    assert "unknown words: whale" in done.err
    assert sorted(p.name for p in Path("masks").iterdir()) == [
        "1-the-red-circle.png",
        "2-the-blue-whale.png",
    ]
    queries = [
        {"image": "photo.png", "expression": SENTENCE},
        {"image": "photo.png", "expression": "zeppelin"},
        {"image": "gone.png", "expression": SENTENCE},
        {"image": "photo.png", "expression": "the square"},
    ]
    Path("q.jsonl").write_text("\n".join(json.dumps(q) for q in queries))
    done = mlkit(
        "segment", "--queries", "q.jsonl", "--weights", "m.safetensors", "-o", "many", "--json"
    )
    assert done.code == 3
    document = json.loads(done.out)
    assert len(document["metrics"]["found"]) == 2
    assert set(document["failures"]) == {"photo.png: zeppelin", "gone.png"}
    assert len(list(Path("many").iterdir())) == 2


def test_turned_photographs_get_upright_masks(mlkit: Mlkit, folder: Path) -> None:
    picture = Image.open("photo.png")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save("turned.jpg", exif=exif)
    done = mlkit("segment", "turned.jpg", SENTENCE, "--weights", "m.safetensors")
    assert done.code == 0, done.err
    assert size_of("mask.png") == (40, 60)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["segment", "photo.png"], 2, "say what to find"),
        (["segment"], 2, "--queries"),
        (["segment", "photo.png", SENTENCE, "--queries", "q.jsonl"], 2, "--queries"),
        (["segment", "none.png", SENTENCE, "M"], 3, "none.png does not exist"),
        (["segment", "text.png", SENTENCE, "M"], 3, "text.png is not a readable image"),
        (["segment", "empty.png", SENTENCE, "M"], 3, "empty.png is not a readable image"),
        (["segment", "moving.gif", SENTENCE, "M"], 3, "moving.gif has 3 frames"),
        (["segment", "photo.png", "  ", "M"], 3, "holds no words"),
        (["segment", "photo.png", "zeppelin hull", "M"], 3, "vocabulary: zeppelin, hull"),
        (["segment", "photo.png", SENTENCE, "--weights", "prune.safetensors"], 4, "'prune'"),
        (["segment", "photo.png", SENTENCE, "--weights", "gone.safetensors"], 4, "does not exist"),
        (["segment", "photo.png", SENTENCE, "-o", "mask.jpg", "M"], 2, "must end in .png"),
        (["segment", "photo.png", SENTENCE, "--prob", "p.csv", "M"], 2, ".npy or .png"),
        (["segment", "photo.png", "a", "b", "-o", "-", "M"], 2, "name a folder"),
        (["segment", "photo.png", SENTENCE, "--threshold", "1.5", "M"], 2, "--threshold 1.5"),
        (["train", "segment", "gone.jsonl"], 3, "gone.jsonl does not exist"),
        (["train", "segment", "evil.p"], 3, "not a pickle of plain data"),
        (["train", "segment", "world/refs.jsonl", "--image-size", "30"], 2, "multiple of 8"),
        (["train", "segment", "world/refs.jsonl", "--fine-tune"], 2, "--fine-tune"),
        (["train", "segment", "size.jsonl", "--image-size", "32"], 3, "its image 60 x 40"),
        (["train", "segment", "black.jsonl", "--image-size", "32"], 3, "the mask is empty"),
        (["eval", "segment", "world/refs.jsonl", "--split", "x", "M"], 3, "composition, test"),
        (["eval", "segment", "size.jsonl", "--split", "all", "M"], 3, "its image 60 x 40"),
        (["check", "segment", "missing.jsonl"], 3, "1 images are missing: gone.png"),
        (["data", "refer-convert", "evil.p"], 3, "not a pickle"),
        (["data", "refer-derive", "world/images", "nowhere"], 3, "nowhere does not exist"),
        (["data", "refer-synth", "-n", "3"], 2, "--scenes 3"),
        (["export", "m.safetensors", "-o", "m.onnx"], 2, "photograph and words"),
    ],
)
def test_what_is_wrong_is_said(
    mlkit: Mlkit, folder: Path, arguments: list[str], code: int, said: str
) -> None:
    if "M" in arguments:
        arguments = [*arguments[:-1], "--weights", "m.safetensors"]
    Path("text.png").write_text("no picture")
    Path("empty.png").touch()
    frames = [Image.new("L", (8, 8), i) for i in (0, 100, 200)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    save("prune.safetensors", {"a": torch.ones(1)}, Metadata("prune", "model"))
    Path("evil.p").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for name, size in (("size", (60, 39)), ("black", (60, 40))):
        Image.new("L", size, 255 if name == "size" else 0).save(f"{name}.png")
        lines = [
            json.dumps({"image": image, "expression": "x", "mask": f"{name}.png", "split": split})
            for image, split in (("photo.png", "train"), ("photo.png", "val"))
        ]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("missing.jsonl").write_text('{"image": "gone.png", "expression": "x", "mask": null}')
    before = set(folder.iterdir())
    done = mlkit(*arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
    assert done.out == ""
    assert not Path("ran").exists()
    assert {p for p in set(folder.iterdir()) - before if p.suffix != ""} == set()


def test_train_and_eval(mlkit: Mlkit, folder: Path) -> None:
    size = ["--image-size", "32", "--batch-size", "4"]
    done = mlkit("train", "segment", "world/refs.jsonl", *size, "--steps", "2", "-o", "run")
    assert done.code == 0, done.err
    assert "chosen by" in done.out
    assert Path("run/report.html").exists()
    scored = mlkit(
        "eval", "segment", "world/refs.jsonl", "--weights", "run/best.safetensors",
        "--weights", "m.safetensors", "--controls", "--json",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    metrics = json.loads(scored.out)["metrics"]
    kinds = metrics["run/best.safetensors"]["model"]
    assert set(kinds) == {"attr", "ord", "rel", "none", "all"}
    assert set(kinds["all"]) >= {"overall", "mean", "prec@0.5", "prec@0.9"}
    assert 0 < metrics["m.safetensors"]["all candidates"]["all"]["overall"] < 1
    told = mlkit("info", "run/best.safetensors")
    assert told.code == 0
    assert "segment" in told.out
    checked = mlkit("check", "segment", "world/refs.jsonl", "--json")
    assert json.loads(checked.out)["metrics"]["splits"]["train"] == 30


def test_demo(mlkit: Mlkit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SCENES", 12), ("TEST_SCENES", 4), ("STEPS", 2)):
        monkeypatch.setattr(handover, name, value)
    done = mlkit("demo", "segment", "-o", "demo")
    assert done.code == 0, done.err
    assert Path("demo/report.html").stat().st_size > 1000
    assert size_of("demo/found.png")[0] > 400
    again = mlkit("demo", "segment", "-o", "demo")
    assert again.code == 3


def test_derive_and_convert(mlkit: Mlkit, folder: Path) -> None:
    numbers = np.zeros((40, 60), dtype=np.uint8)
    numbers[5:20, 5:20], numbers[10:30, 40:55] = 1, 2
    for name in ("photos", "masks"):
        Path(name).mkdir()
    Image.open("photo.png").save("photos/a.png")
    Image.fromarray(numbers).save("masks/a.png")
    done = mlkit(
        "data", "refer-derive", "photos", "masks", "--noun", "dog", "-o", "r.jsonl", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["kinds"]["side"] == 2
    assert mlkit("check", "segment", "r.jsonl").code == 0
