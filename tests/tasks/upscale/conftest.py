from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.core.media import write_image

from .helpers import picture


@pytest.fixture
def sharp_folder(tmp_path: Path) -> Path:
    """Eight sharp colour pictures of 72 x 80 pixels."""
    for i in range(8):
        write_image(tmp_path / "sharp" / f"{i}.png", picture(72, 80, seed=i))
    return tmp_path / "sharp"
