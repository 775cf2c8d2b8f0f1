#!/usr/bin/env bash
# Follow objects, cut out what was followed, and learn without labels which pictures are of the same one.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

mlkit data track-synth --videos 1 --frames 90 --objects 6 --seed 3 -o "$out/videos"
sequence=$out/videos/synth-0001
mlkit track "$sequence" --det gt --method sort -o "$out/tracks.txt"
mkdir -p "$out/found/gt"
cp -r "$sequence/img1" "$sequence/seqinfo.ini" "$out/found/"
cp "$out/tracks.txt" "$out/found/gt/gt.txt"
mlkit data tracklets "$out/found" --min-length 20 -o "$out/pieces"
mlkit pretrain "$out/pieces/labels.csv" --frames 4 --stride 2 --size 24 --width 0.5 --batch-size 4 \
  -o "$out/run" "$@"
mlkit eval pretrain "$out/pieces/labels.csv" --weights "$out/run/best.safetensors" --json > "$out/scores.json"
python - "$out/scores.json" <<'PYTHON'
import json, sys

scores = json.load(open(sys.argv[1]))["metrics"]
print(f"the last clip finds the first of its object: {100 * scores['same video']['value']:.0f} %")
PYTHON
