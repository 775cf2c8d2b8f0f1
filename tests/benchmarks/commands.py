"""What commands cost: start-up of every help text, time and peak memory of a small real job."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlkit.cli import app

from ..reliability.workshop import JOBS, furnish, sound_input

REPEATS = 5


def compare() -> list[dict[str, Any]]:
    """Return CPU seconds and peak memory of whole processes, the least of some runs."""
    words = [["--help"], *([row.name, "--help"] for row in app.COMMANDS)]
    words += [[group, row.name, "--help"] for group, rows, *_ in app.GROUPS for row in rows]
    rows = [_row(line, REPEATS if line == ["--help"] else 1) for line in words]
    slowest = max(rows[1:], key=lambda row: float(row["CPU s"]))
    shown = [
        rows[0],
        {**slowest, "command": f"the slowest help of {len(rows)}: mlkit {_name(slowest)}"},
    ]
    for row in shown:
        del row["peak MB"]  # a child's peak is never below what its parent had: too little to tell
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            furnish(
                Path(folder),
                lambda *line: subprocess.call(
                    [sys.executable, "-m", "mlkit", *line], stdout=subprocess.DEVNULL
                ),
            )
            for number, (method, job) in enumerate(JOBS.items()):
                line = job.use.replace("INPUT", str(sound_input(method)))
                shown.append(_row(line.replace("OUT", f"out-{number}").split(), 1))
        finally:
            os.chdir(before)
    return shown


def _name(row: dict[str, Any]) -> str:
    return str(row["command"]).removeprefix("mlkit ")


def _row(words: list[str], repeats: int) -> dict[str, Any]:
    seconds, peak = zip(
        *(_cost([sys.executable, "-m", "mlkit", *words]) for _ in range(repeats)), strict=True
    )
    return {
        "command": f"mlkit {' '.join(words)}",
        "CPU s": round(min(seconds), 2),
        "peak MB": round(min(peak)),
    }


def _cost(command: list[str]) -> tuple[float, float]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3
