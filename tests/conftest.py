from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

# Tests run in several processes at once; one thread for each, and for the commands that they start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    raw: bytes  # what stdout got, as it is


@pytest.fixture
def mlkit(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run the real command line in process, at 80 columns and without a terminal.

    `stdin` is what the command reads from standard input.
    """
    from mlkit.cli.app import main

    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: Any, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return Outcome(code, out.decode(errors="replace"), err.decode(), out)

    return run


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Twenty small pictures in two classes that differ in colour."""
    random = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 80, (20, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"
