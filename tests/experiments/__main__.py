"""`python -m tests.experiments NAME --data DIR --seeds 3 -o results.json`."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

from mlkit.core.files import write_text
from mlkit.core.results import versions

EXPERIMENTS = {
    "prune-recovery": "prune:recovery",
    "prune-recovery-small": "prune:recovery_small",
    "prune-imagenet": "prune:imagenet",
    "prune-detector": "prune:detector",
    "labelnoise-selection": "labelnoise:selection",
    "labelnoise-selection-scan": "labelnoise:selection_scan",
    "labelnoise-guard": "labelnoise:guard_table",
    "labelnoise-guard-small": "labelnoise:guard_small",
    "labelnoise-training": "labelnoise:training",
    "transcribe-noise": "transcribe:noise",
    "transcribe-arms": "transcribe:semi",
    "transcribe-detectors": "transcribe:detectors",
    "transcribe-confidence": "transcribe:confidence",
    "transcribe-shift": "transcribe:shift",
    "denoise-bsd68": "denoise:bsd68",
    "denoise-set12": "denoise:set12",
    "denoise-cross": "denoise:cross",
    "denoise-tv": "denoise:tv_weights",
    "denoise-ablations": "denoise:ablations",
    "reconstruct-tune": "reconstruct:tune",
    "reconstruct-ct": "reconstruct:ct",
    "reconstruct-mri": "reconstruct:mri",
    "reconstruct-mri-coils": "reconstruct:mri_coils",
    "reconstruct-image": "reconstruct:image",
    "forecast-table": "forecast:table",
    "forecast-week": "forecast:week",
    "forecast-inductive": "forecast:inductive",
    "pretrain-recordings": "pretrain:recordings",
    "pretrain-tracklets": "pretrain:tracklets",
    "pretrain-tracklets-colours": "pretrain:tracklets_colours",
    "pretrain-sprites": "pretrain:sprites",
    "pretrain-gap": "pretrain:gap",
    "pretrain-ablations": "pretrain:ablations",
    "track-metrics": "track:metrics",
    "track-association": "track:association",
    "track-learned": "track:learned",
    "track-synthetic": "track:synthetic",
    "segment-shapes": "segment:shapes",
    "segment-photos": "segment:photos",
    "recommend-table": "recommend:table",
    "recommend-remedies": "recommend:remedies",
    "zeroshot-folds": "zeroshot:five_folds",
    "zeroshot-folds-embedded": "zeroshot:five_folds_embedded",
    "zeroshot-folds-long": "zeroshot:five_folds_long",
    "zeroshot-unseen": "zeroshot:unseen_photos",
    "zeroshot-finetuning": "zeroshot:finetuning",
    "zeroshot-vectors": "zeroshot:vectors",
    "zeroshot-embedded": "zeroshot:embedded",
    "upscale-table": "upscale:table",
    "upscale-zssr": "upscale:zssr_long",
    "upscale-signature": "upscale:signature",
    "upscale-tune": "upscale:tune",
    "upscale-mismatch": "upscale:mismatch",
    "upscale-blind": "upscale:blind",
    "upscale-ablations": "upscale:ablations",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.experiments")
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    module, _, function = EXPERIMENTS[args.name].partition(":")
    result = getattr(import_module(f"tests.experiments.{module}"), function)(args.data, args.seeds)
    document = {
        "experiment": args.name,
        "seeds": args.seeds,
        "commit": _commit(),
        "machine": platform.processor() or platform.machine(),
        "versions": versions(),
        "result": result,
    }
    print(text := json.dumps(document, indent=1))
    if args.out:
        write_text(args.out, text + "\n")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean and sample standard deviation of the values over seeds."""
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5
    return {"mean": mean, "sd": deviation, "values": values}


if __name__ == "__main__":
    main()
