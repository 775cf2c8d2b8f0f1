#!/usr/bin/env bash
# Prune the embedded network, score both, export the small one, and read a number with Python.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

mlkit prune --data-free --sparsity 0.5 --plot "$out/layers.png" -o "$out/small.safetensors" "$@"
mlkit eval prune --weights "$out/small.safetensors" --json > "$out/scores.json"
mlkit export "$out/small.safetensors" -o "$out/small.pt2"
python - "$out/scores.json" <<'PYTHON'
import json, sys

scores = json.load(open(sys.argv[1]))["metrics"]
print("top-1 of the small model:", next(iter(scores.values()))["top1"]["value"])
PYTHON
