#!/usr/bin/env bash
# Generate two videos, look at how hard they are, track given boxes at several frame rates, train.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

mlkit data track-synth -o "$out/videos" --videos 2 --frames 48 --objects 5 --seed 3
mlkit check track "$out/videos" --every 1,4,12
mlkit track "$out/videos/synth-0001" --det gt --method sort --every 4 -o "$out/tracks.txt" --video "$out/tracks.mp4"
mlkit train track "$out/videos" --preset quick -o "$out/run" "$@"
mlkit track "$out/videos/synth-0001" --weights "$out/run/best.safetensors" --thresh 0.3 --fps 10 -o "$out/own.txt"
mlkit eval track "$out/videos" --methods iou,sort,histogram --det gt --every 1,4,12 --plot "$out/rates.png" --json > "$out/scores.json"
python - "$out/scores.json" <<'PYTHON'
import json, sys

scores = json.load(open(sys.argv[1]))["metrics"]
best = max(scores, key=lambda name: scores[name]["12"]["all"]["IDF1"])
print(f"best at every 12th frame: {best}, IDF1 {scores[best]['12']['all']['IDF1']:.1f}")
PYTHON
