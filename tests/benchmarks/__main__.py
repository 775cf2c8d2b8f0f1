"""`python -m tests.benchmarks [NAME ...] [-o results.json]`: ours beside the peer, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mlkit.core.files import write_text
from mlkit.core.results import versions

from .timing import measure

BENCHMARKS = {
    "prune": "prune:compare",
    "labelnoise": "labelnoise:compare",
    "labelnoise-large": "labelnoise:large",
    "denoise": "denoise:compare",
    "reconstruct": "reconstruct:compare",
    "pretrain": "pretrain:compare",
    "recommend": "recommend:compare",
    "segment": "segment:compare",
    "transcribe": "transcribe:compare",
    "forecast": "forecast:compare",
    "zeroshot": "zeroshot:compare",
    "upscale": "upscale:compare",
    "track": "track:compare",
    "commands": "commands:compare",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    names = args.names or list(BENCHMARKS)
    # Each has a process to itself: a peak of memory is never below what was there before.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in names:
            print(name, file=sys.stderr, flush=True)
            document[name] = pool.submit(measure, BENCHMARKS[name]).result()
    table = Table(
        "benchmark",
        "what",
        "measured",
        title=f"{document['machine']}, {document['threads']} threads",
    )
    for name in names:
        for row in document[name]:
            (kind, what), *rest = row.items()
            if rest:
                table.add_row(name, f"{kind} {what}", ", ".join(f"{k} {v}" for k, v in rest))
            else:
                table.add_row(name, kind, str(what))
    Console().print(table)
    if args.out:
        write_text(args.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
