"""`python -m tests.benchmarks [NAME ...] [-o results.json]`: ours beside the peer, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import import_module
from pathlib import Path

import torch

from mlkit.core.files import write_text
from mlkit.core.results import versions

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
    document = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    for name in args.names or BENCHMARKS:
        module, _, function = BENCHMARKS[name].partition(":")
        document[name] = getattr(import_module(f"tests.benchmarks.{module}"), function)()
        for row in document[name]:
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    if args.out:
        write_text(args.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
