#!/usr/bin/env bash
# Train a federated forecaster on a generated motorway, score it, forecast, and let every sensor
# have a copy of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
speeds=$here/motorway/speeds.csv roads=$here/motorway/distances.csv
weights=$out/run/best.safetensors

mlkit check forecast "$speeds" --graph "$roads"
mlkit train forecast "$speeds" --graph "$roads" --preset quick -o "$out/run" "$@"
mlkit eval forecast "$speeds" --weights "$weights" --every 4 --plot "$out/errors.png"
mlkit forecast "$speeds" --weights "$weights" -o "$out/forecast.csv" --plot "$out/day.png" --json > "$out/f.json"
python - "$out/f.json" <<'PYTHON'
import json, sys

found = json.load(open(sys.argv[1]))["metrics"]
print("two hours ahead:", ", ".join(f"{k} {v[-1]:.0f}" for k, v in list(found["forecast"].items())[:4]))
PYTHON
