from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlkit.tasks.segment.config import SynthConfig
from mlkit.tasks.segment.synth import synthesise


def world(folder: Path, scenes: int = 20, **options: Any) -> Path:
    """Write a small generated world and return its refs.jsonl."""
    values = {"test_scenes": 4, "image_size": 32, "shapes": 4, **options}
    synthesise(SynthConfig(out=folder, scenes=scenes, **values))
    return folder / "refs.jsonl"


def photograph(path: Path, width: int = 12, height: int = 8) -> Path:
    """Write a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
    return path


def box_mask(height: int, width: int, left: int, top: int, right: int, bottom: int) -> Any:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path
