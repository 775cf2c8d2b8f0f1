#!/usr/bin/env bash
# Draw a world of shapes, train on its sentences, score, and find what a sentence means in a picture.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

mlkit data refer-synth -o "$out/world" --scenes 300 --test-scenes 20 --image-size 32 --shapes 4
mlkit check segment "$out/world/refs.jsonl"
mlkit train segment "$out/world/refs.jsonl" --image-size 32 --word-order lstm -o "$out/run" "$@"
mlkit eval segment "$out/world/refs.jsonl" --weights "$out/run/best.safetensors" --controls
mlkit segment "$out/world/images/test-00000.png" "the leftmost circle" "the red zeppelin" \
  --weights "$out/run/best.safetensors" -o "$out/masks" --overlay "$out/overlay.png" --json > "$out/found.json"
python - "$out/found.json" <<'PYTHON'
import json, sys

found = json.load(open(sys.argv[1]))["metrics"]["found"]
print("unknown in the second sentence:", *found[1]["unknown"])
PYTHON
