#!/usr/bin/env bash
# Generate videos, look them over, learn from them without labels, score, fine-tune, write features.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
clip=(--frames 4 --stride 4 --size 32 --width 0.5)

mlkit data sprite-videos --videos 48 --side 40 -o "$out/train"
mlkit data sprite-videos --videos 24 --side 40 --seed 1 --container mp4 -o "$out/test"
mlkit check pretrain "$out/train/labels.csv" --frames 4
mlkit pretrain "$out/train/labels.csv" "${clip[@]}" --batch-size 16 --epochs 10 -o "$out/run" "$@"
weights=$out/run/best.safetensors
mlkit eval pretrain "$out/test/labels.csv" --weights "$weights" --json > "$out/scores.json"
mlkit eval pretrain "$out/test/labels.csv" --random-init "${clip[@]}"
mlkit train pretrain "$out/train/labels.csv" --weights "$weights" --freeze --epochs 4 -o "$out/probe"
mlkit eval pretrain "$out/test/labels.csv" --weights "$out/probe/best.safetensors"
mlkit data video-features "$out/test/labels.csv" --weights "$weights" -o "$out/features.npz"
python - "$out" <<'PYTHON'
import json, sys
import numpy as np

scores = json.load(open(f"{sys.argv[1]}/scores.json"))["metrics"]
features = np.load(f"{sys.argv[1]}/features.npz")["features"]
print(f"{len(features)} videos; the last clip finds its video's first: {scores['same video']['value']:.2f}")
PYTHON
