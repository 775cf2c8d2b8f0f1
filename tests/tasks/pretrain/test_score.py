from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.pretrain.config import EvalConfig
from mlkit.tasks.pretrain.features import Described
from mlkit.tasks.pretrain.score import scores


def described(labels: list[str], views: int = 2) -> Described:
    features = torch.randn(len(labels), views, 4, generator=torch.Generator().manual_seed(0))
    return Described(features, tuple(map(str, range(len(labels)))), {"label": tuple(labels)})


def test_labels_that_never_repeat_are_names_and_not_scored() -> None:
    config, runtime = EvalConfig(data=Path("videos.csv")), start(RunOptions())
    found = scores(described(["a", "b", "c", "d"]), config, runtime)
    assert set(found) == {"same video"}
    found = scores(described(["a", "b", "a", "b"]), config, runtime)
    assert {"same video", "same label", "linear", "knn"} <= set(found)
    with pytest.raises(DataError, match="no label twice, and one view says nothing"):
        scores(described(["a", "b", "c", "d"], views=1), config, runtime)
