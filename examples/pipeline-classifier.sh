#!/usr/bin/env bash
# From doubtful labels to a small classifier: find wrong labels, train on the rest, prune, score, export.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

python - "$out" <<'PYTHON'
import sys
from pathlib import Path
from mlkit.tasks.labelnoise.handover import draw_shapes

draw_shapes(Path(sys.argv[1]), seed=0)
PYTHON
shapes=$out/shapes
mlkit data noisy-labels "$shapes" --noise sym:0.2 --seed 1 -o "$out/noisy.csv"
mlkit labelnoise "$out/noisy.csv" --image-size 16 --batch-size 32 --epochs 8 -o "$out/report.csv" --cleaned "$out/cleaned.csv"
mlkit train prune "$out/cleaned.csv" --image-size 24 --batch-size 32 -o "$out/run" "$@"
mlkit prune --weights "$out/run/best.safetensors" --data-free --sparsity 0.3 \
  --synthetic-images 32 --iterations 40 --repair-steps 60 -o "$out/small.safetensors"
mlkit eval prune "$shapes" --weights "$out/run/best.safetensors" --weights "$out/small.safetensors" \
  --json > "$out/scores.json"
mlkit export "$out/small.safetensors" -o "$out/small.pt2"
python - "$out/scores.json" <<'PYTHON'
import json, sys

scores = json.load(open(sys.argv[1]))["metrics"].values()
whole, small = (100 * score["top1"]["value"] for score in scores)
print(f"right on all shapes: {whole:.0f} % whole, {small:.0f} % pruned")
PYTHON
