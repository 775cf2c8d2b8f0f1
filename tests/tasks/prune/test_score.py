from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mlkit.core.errors import DataError, UsageError
from mlkit.core.inputs import InputSpec
from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.prune import EvalConfig, evaluate
from mlkit.tasks.prune.data import Labelled, embedded_test_images, open_labelled, to_inputs
from mlkit.tasks.prune.score import accuracy, average_precision
from mlkit.tasks.prune.zoo import EMBEDDED, open_model

WEIGHTS = Path(__file__).parents[3] / "tasks" / "prune" / "weights" / f"{EMBEDDED}.safetensors"


def test_the_card_of_the_embedded_network_tells_the_truth() -> None:
    result = evaluate(EvalConfig(weights=(WEIGHTS,)), RunOptions(device="cpu"))
    assert result.metrics[str(WEIGHTS)]["top1"]["value"] == 0.952
    assert result.metrics[str(WEIGHTS)]["top5"]["images"] == 1000


def test_accuracy_by_hand() -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))
            return torch.stack([-level, level], 1)

    levels = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    data = Labelled(levels.expand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), ("dark", "bright"))
    spec = InputSpec(8, 8, (0.5,), (0.5,))
    found = accuracy(Brightness(), data, spec, start(RunOptions(device="cpu")))
    assert (found["top1"].hits, found["top1"].total) == (2, 4)


def test_inputs_are_scaled_cropped_and_normalised(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 30:50] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    spec = InputSpec(20, 20, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    inputs = to_inputs([tmp_path / "a.png"], spec)
    assert inputs.shape == (1, 3, 20, 20)
    assert float(inputs[0, 0, 10, 10]) == 1.0  # the white middle
    assert float(inputs[0, 0, 10, 0]) == -1.0
    squashed = to_inputs([tmp_path / "a.png"], InputSpec(20, 20, squash=True))
    assert squashed.shape == inputs.shape
    grey = to_inputs([tmp_path / "a.png"], InputSpec(20, 20, (0.5,), (0.5,)))
    assert grey.shape == (1, 1, 20, 20)


def test_stored_levels_are_fitted_to_other_sizes() -> None:
    images = embedded_test_images().first(3).images
    assert to_inputs(images, InputSpec(28, 28, (0.0,), (1.0,))).shape == (3, 1, 28, 28)
    assert to_inputs(images, InputSpec(32, 32)).shape == (3, 3, 32, 32)


def test_tables_of_labels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    table = tmp_path / "labels.tsv"
    table.write_text("file\twnid\timagenet_index\na.jpg\tn1\t7\n")
    data = open_labelled(tmp_path, table)
    assert data.labels.tolist() == [7]
    assert len(data.classes) == 8
    table.write_text("name\nx\n")
    with pytest.raises(DataError, match="not 'file' and 'index'"):
        open_labelled(tmp_path, table)
    table.write_text("file\tindex\na.jpg\tseven\n")
    with pytest.raises(DataError, match="seven"):
        open_labelled(tmp_path, table)


class Oracle(nn.Module):
    """Knows the truth of every photograph, told by its size."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        width = float(images[0].shape[2])
        box = torch.tensor([[2.0, 3.0, width / 2, 20.0]]) + self.shift
        points = torch.tensor([[[5.0, 6.0, 1.0]] * 17]) + self.shift
        return [
            {
                "boxes": box,
                "scores": torch.tensor([0.9]),
                "labels": torch.tensor([1]),
                "keypoints": points,
            }
        ]


def coco(tmp_path: Path) -> Path:
    images, boxes = [], []
    for i, width in enumerate((40, 60, 80)):
        Image.new("RGB", (width, 30)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": 30})
        boxes.append(
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1,
                "bbox": [2, 3, width / 2 - 2, 17],
                "area": (width / 2 - 2) * 17,
                "iscrowd": 0,
                "keypoints": [5, 6, 2] * 17,
                "num_keypoints": 17,
            }
        )
    path = tmp_path / "truth.json"
    document = {"info": {}, "images": images, "annotations": boxes}
    path.write_text(json.dumps({**document, "categories": [{"id": 1, "name": "thing"}]}))
    return path


@pytest.mark.parametrize("task", ["detection", "keypoints"])
def test_average_precision_of_the_truth_is_one(tmp_path: Path, task: str) -> None:
    pytest.importorskip("pycocotools")
    config = EvalConfig(data=tmp_path, weights=("x",), annotations=coco(tmp_path))
    runtime = start(RunOptions(device="cpu"))
    assert average_precision(Oracle(0.0), config, task, runtime)["AP"] == pytest.approx(1.0)
    shifted = average_precision(Oracle(6.0), config, task, runtime)
    assert shifted["AP"] < 0.5


def test_detection_needs_annotations(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--annotations"):
        evaluate(EvalConfig(weights=(WEIGHTS,), task="detection"), RunOptions(device="cpu"))
    broken = tmp_path / "b.json"
    broken.write_text("{}")
    config = EvalConfig(data=tmp_path, weights=(WEIGHTS,), annotations=broken, task="detection")
    pytest.importorskip("pycocotools")
    with pytest.raises(DataError, match=r"b\.json is not a COCO file"):
        evaluate(config, RunOptions(device="cpu"))


def test_class_counts_must_agree(class_folder: Path) -> None:
    model, recipe = open_model(EMBEDDED, None, None, None, False)
    data = Labelled(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 11]), ["x"] * 12)
    with pytest.raises(DataError, match="12 classes, the model 10"):
        accuracy(model, data, recipe.input, start(RunOptions(device="cpu")))
