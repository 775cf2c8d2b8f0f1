from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Smaller than the defaults, so that the tests stay fast; the scripts pass them on.
QUICK = {"prune": ["--synthetic-images=16", "--iterations=5", "--repair-steps=4"]}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda p: p.stem)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(script), *QUICK[script.stem]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "top-1 of the small model: 0." in done.stdout
    assert list(tmp_path.iterdir()) == []
