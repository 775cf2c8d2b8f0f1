#!/usr/bin/env bash
# Draw a small long-tailed set with wrong labels, find them, score what was found, train in spite of them.
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
mlkit check labelnoise "$shapes"
mlkit data noisy-labels "$shapes" --imbalance 0.3 --noise sym:0.2 --seed 1 -o "$out/noisy.csv"
mlkit labelnoise "$out/noisy.csv" --image-size 16 --batch-size 32 --epochs 20 \
  -o "$out/report.csv" --html "$out/sheet.html" \
  --summary "$out/summary.json" --cleaned "$out/cleaned.csv"
mlkit eval labelnoise "$out/report.csv" --truth "$out/noisy.csv" --json > "$out/scores.json"
mlkit train labelnoise "$out/noisy.csv" --val "$shapes" --image-size 16 -o "$out/run" "$@"
mlkit eval labelnoise "$shapes" --weights "$out/run/best.safetensors"
python - "$out/scores.json" <<'PYTHON'
import json, sys

scores = json.load(open(sys.argv[1]))["metrics"]
print(f"of {scores['flagged']} flags {100 * (scores['precision'] or 0):.0f} % were right")
PYTHON
