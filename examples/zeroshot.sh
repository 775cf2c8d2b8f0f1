#!/usr/bin/env bash
# Recognise classes without a training photo, explain one, and fit a small graph of one's own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

printf 'domestic_cat\ncup\tn03147509\nrocket\tn04099429\ngiraffe\nmotorcycle\n' > "$out/unseen.txt"
mlkit zeroshot "$here/photos" --classes "$out/unseen.txt" --plot "$out/answers.png" -o "$out/answers.csv"
mlkit zeroshot --explain domestic_cat
mlkit data zeroshot-rows --classes "$out/unseen.txt" -o "$out/rows.pred"
mlkit zeroshot "$here/photos/rocket.jpg" --classes "$out/unseen.txt" --rows "$out/rows.pred" --by graph
mlkit train zeroshot --nodes induced --classes "$out/unseen.txt" -o "$out/run" "$@"
mlkit zeroshot "$here/photos/cat.jpg" --classes "$out/unseen.txt" \
  --weights "$out/run/best.safetensors" --json > "$out/cat.json"
python - "$out/cat.json" <<'PYTHON'
import json, sys

best = json.load(open(sys.argv[1]))["metrics"]["images"][0]["classes"][0]
print("cat.jpg shows:", best["class"])
PYTHON
