#!/usr/bin/env bash
# Recognise spoken digits, label recordings with doubt, train a model on both, and score it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
digits=$here/digits

mlkit transcribe "$digits" -o "$out/text" -f srt
mlkit eval transcribe "$digits"
mlkit data pseudo-labels "$digits" --threshold 0.9 -o "$out/pseudo.jsonl"
mlkit data spoken-strings "$digits" --indices 0-49 --count 24 -o "$out/strings"
mlkit train transcribe "$out/strings" --unlabelled "$digits" --units word --rate 8000 \
  --mel-bins 24 -o "$out/run" "$@"
mlkit eval transcribe "$digits" --weights "$out/run/best.safetensors" --json > "$out/scores.json"
mlkit transcribe "$digits/7_jackson_0.wav" --json > "$out/seven.json"
python - "$out/seven.json" <<'PYTHON'
import json, sys

heard = json.load(open(sys.argv[1]))["metrics"]["transcripts"][0]
print("heard:", heard["text"])
PYTHON
