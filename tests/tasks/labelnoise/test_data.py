from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start, stream
from mlkit.tasks.labelnoise.data import conflicts, normalise, open_images
from mlkit.tasks.labelnoise.model import BUILDERS
from mlkit.tasks.labelnoise.scoring import augmented, fold_numbers, scores


def test_a_folder_becomes_levels(class_folder: Path) -> None:
    images = open_images(class_folder, 16, Silent())
    assert images.levels.shape == (20, 3, 16, 16)
    assert list(images.classes) == ["blue", "red"]
    assert images.counts.tolist() == [10, 10]
    blue, red = (images.levels[images.labels == k].float().mean((0, 2, 3)) for k in (0, 1))
    assert blue.argmax() == 2
    assert red.argmax() == 0
    scaled = normalise(images.levels)
    assert float(scaled.min()) > -3


def test_tables_and_arrays_hold_the_same(class_folder: Path, tmp_path: Path) -> None:
    images = open_images(class_folder, 16, Silent())
    rows = [f"{Path(n).relative_to(tmp_path)},{Path(n).parent.name}" for n in images.names]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    lines = [f'{{"path": "{r.split(",")[0]}", "label": "{r.split(",")[1]}"}}' for r in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    arrays = images.levels.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "t.npz", images=arrays, labels=images.labels.numpy())
    for name in ("t.csv", "t.jsonl", "t.npz"):
        again = open_images(tmp_path / name, 16, Silent())
        assert torch.equal(again.levels, images.levels)
        assert torch.equal(again.labels, images.labels)


def test_broken_images_are_left_out_and_listed(class_folder: Path) -> None:
    whole = (class_folder / "red" / "3.png").read_bytes()
    (class_folder / "red" / "3.png").write_bytes(whole[:100])
    images = open_images(class_folder, 16, Silent())
    assert len(images) == 19
    assert list(images.broken) == [str(class_folder / "red" / "3.png")]
    for path in class_folder.rglob("*.png"):
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="none of the images"):
        open_images(class_folder, 16, Silent())


def test_one_picture_with_two_labels_is_found(class_folder: Path) -> None:
    (class_folder / "red" / "copy.png").write_bytes((class_folder / "blue" / "1.png").read_bytes())
    (class_folder / "red" / "same.png").write_bytes((class_folder / "red" / "2.png").read_bytes())
    images = open_images(class_folder, 16, Silent())
    found = {Path(images.names[i]).name for i in conflicts(images)["place"]}
    assert found == {"copy.png", "1.png"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label\na.png,x\nb.png,y\n", "2 files do not exist: "),
        ("path,kind\na.png,x\n", "no label column; found path, kind"),
        ("name,label\na.png,x\n", "no path column"),
        ("path,label\na.png,\n", "line 2 has nothing in column label"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "t.csv", 16, Silent())


def test_bad_folders_are_refused(class_folder: Path) -> None:
    (class_folder / "green").mkdir()
    with pytest.raises(DataError, match="green is an empty class folder"):
        open_images(class_folder, 16, Silent())
    (class_folder / "green").rmdir()
    with pytest.raises(DataError, match="classes that are not known: red"):
        open_images(class_folder, 16, Silent(), ["blue", "green"])
    for path in (class_folder / "red").iterdir():
        path.unlink()
    (class_folder / "red").rmdir()
    with pytest.raises(DataError, match="has one class, blue"):
        open_images(class_folder, 16, Silent())
    with pytest.raises(DataError, match="does not exist"):
        open_images(class_folder / "none", 16, Silent())


def test_views_stay_levels_and_differ(class_folder: Path) -> None:
    levels = open_images(class_folder, 16, Silent()).levels
    one, two = augmented(levels, stream(0, 1)), augmented(levels, stream(0, 2))
    assert one.dtype == torch.uint8
    assert one.shape == levels.shape
    assert not torch.equal(one, two)
    assert torch.equal(one, augmented(levels, stream(0, 1)))


def test_folds_spread_every_class() -> None:
    labels = torch.tensor([0] * 31 + [1] * 8 + [2] * 2)
    folds = fold_numbers(labels, 4, 0)
    for k, size in enumerate((31, 8, 2)):
        counts = np.bincount(folds[labels.numpy() == k], minlength=4)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


def test_one_pass_gives_both_and_leaves_the_network_alone(class_folder: Path) -> None:
    levels = open_images(class_folder, 16, Silent()).levels
    torch.manual_seed(0)
    model = BUILDERS["small"](2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probs, features = scores(model, levels, start(RunOptions(device="cpu")))
    assert probs.sum(1) == pytest.approx(np.ones(20), abs=1e-5)
    assert (probs.dtype, features.dtype) == (np.float32, np.float16)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
