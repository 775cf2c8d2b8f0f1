#!/usr/bin/env bash
# Train on a small generated log of books, turn the dial, recommend to a user and to a newcomer.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
log=$here/books/log.csv items=$here/books/items.csv weights=$out/run/best.safetensors

mlkit check recommend "$log" --items "$items"
mlkit train recommend "$log" --items "$items" -o "$out/run" "$@"
mlkit eval recommend "$log" --weights "$weights" --at 10 --diversity 0,0.25,1 --plot "$out/dial.png"
mlkit recommend "$log" --weights "$weights" --user u7 -k 8 --diversity 0.25
mlkit recommend "$log" --weights "$weights" --all-users -k 5 -o "$out/recs.jsonl"
mlkit recommend --weights "$weights" --history b7,b12,b31 -k 3 --json > "$out/new.json"
python - "$out/new.json" <<'PYTHON'
import json, sys

listed = json.load(open(sys.argv[1]))["metrics"]["recommendations"]
print("a newcomer gets:", ", ".join(row["title"] for row in listed))
PYTHON
