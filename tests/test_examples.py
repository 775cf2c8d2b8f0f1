from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Options that make a script fast (the scripts pass them on), and what it must say at the end.
SCRIPTS = {
    "prune": (
        ["--synthetic-images=16", "--iterations=5", "--repair-steps=4"],
        "top-1 of the small model: 0.",
    ),
    "labelnoise": (["--epochs=2", "--warmup-epochs=1"], " % were right"),
    "forecast": (["--rounds=2", "--personalise=1"], "two hours ahead: A01"),
    "recommend": (["--steps=60", "--save-every=30", "--dim=16"], "a newcomer gets: "),
    "track": (["--steps=4", "--size=128"], "best at every 12th frame: "),
    "segment": (["--steps=4", "--save-every=2"], "unknown in the second sentence: zeppelin"),
    "transcribe": (
        ["--steps=6", "--pseudo-steps=4", "--save-every=2", "--batch-size=4"],
        "heard: seven",
    ),
    "zeroshot": (["--hidden=32", "--epochs=4"], "cat.jpg shows: "),
    "pretrain": (["--epochs=1"], "24 videos; the last clip finds its video's first: "),
    "denoise": (["--tol=1e-3"], "convex: True error at most: 0."),
    "upscale": (["--steps=2"], "error in grey levels below bicubic: True"),
    "reconstruct": (["--tol=1e-3"], "convex: True energy never rose: True"),
    "pipeline-picture": (["--steps=1"], "(224, 224) pixels show: domestic cat"),
    "pipeline-classifier": (["--epochs=1"], "right on all shapes: "),
    "pipeline-people": (["--epochs=1"], "the last clip finds the first of its object: "),
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.sh")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_examples_run(name: str, tmp_path: Path) -> None:
    options, said = SCRIPTS[name]
    done = run_bash([str(EXAMPLES / f"{name}.sh"), *options], tmp_path)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_for_ci_runs(tmp_path: Path) -> None:
    commands = [c for c in recipe() if not c.startswith("pip install")]
    assert len(commands) > 8
    done = run_bash(["-euo", "pipefail", "-c", "\n".join(commands)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "words.json").stat().st_size > 0


def recipe() -> list[str]:
    """Return the lines of all `run:` steps of ci.yml."""
    commands, block = [], -1
    for line in (EXAMPLES / "ci.yml").read_text().splitlines():
        depth, text = len(line) - len(line.lstrip()), line.strip()
        if block >= 0 and depth > block:
            commands.append(text)
            continue
        block = depth if text == "run: |" else -1
        if text.startswith("run: ") and block < 0:
            commands.append(text.removeprefix("run: "))
    return commands


def run_bash(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLKIT_EXAMPLES": str(EXAMPLES)}
    return subprocess.run(
        ["bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
