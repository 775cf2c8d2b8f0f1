from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlkit.core.media import write_image

from .helpers import noise, picture


@pytest.fixture
def clean_folder(tmp_path: Path) -> Path:
    """Eight clean grey pictures of 48 x 56 pixels."""
    for i in range(8):
        write_image(tmp_path / "clean" / f"{i}.png", picture(48, 56, seed=i)[0])
    return tmp_path / "clean"


@pytest.fixture
def noisy_file(tmp_path: Path) -> Path:
    """A colour picture with noise of 20 grey levels."""
    planes = torch.cat([picture(40, 44, seed=i)[0] for i in range(3)])
    write_image(tmp_path / "noisy.png", planes + noise(planes, 20))
    return tmp_path / "noisy.png"
