from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.core.inputs import InputSpec, fit_picture, read_input


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """40 x 20 pixels: the left half black, the right half white."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_the_middle_is_cut_out_and_squashing_keeps_all(picture: Path) -> None:
    spec = InputSpec(8, 10, interpolation="nearest")
    cut = read_input(picture, spec)
    assert cut.shape == (3, 8, 8)
    assert cut[:, :, :4].max() == 0
    assert cut[:, :, 4:].min() == 1
    wide = read_input(picture, InputSpec(20, 20))
    squashed = read_input(picture, InputSpec(20, 20, squash=True))
    assert wide.mean() == pytest.approx(0.5, abs=0.02)
    # Half of the columns become the left, half the right, whatever the shape was.
    assert squashed[:, :, :8].max() < 0.05
    assert squashed[:, :, 12:].min() > 0.95


def test_one_channel_reads_grey(picture: Path) -> None:
    grey = read_input(picture, InputSpec(8, 8, (0.5,), (0.5,)))
    assert grey.shape == (1, 8, 8)
    same = fit_picture(Image.open(picture), InputSpec(8, 8, (0.5,), (0.5,)))
    assert torch.equal(grey, same)


def test_normalisation_and_what_is_no_picture(tmp_path: Path) -> None:
    spec = InputSpec(mean=(0.5,), std=(0.25,))
    assert spec.normalise(torch.ones(1, 1, 2, 2)).unique().tolist() == [2.0]
    assert spec.denormalise(torch.full((1, 1, 2, 2), 2.0)).unique().tolist() == [1.0]
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(DataError, match="is not a readable image"):
        read_input(tmp_path / "x.png", spec)
