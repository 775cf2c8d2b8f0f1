#!/usr/bin/env bash
# Scan a phantom with few X-rays, reconstruct it three ways, and read the proof with Python.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

mlkit data sinogram phantom --size 64 --views 40 --noise 0.005 -o "$out/scan" > "$out/said.txt"
for method in fbp tv crr; do
  mlkit reconstruct ct "$out/scan/sinogram.npy" --angles "$out/scan/angles.txt" --size 64 \
    --method "$method" --reference "$out/scan/image.npy" --certify \
    -o "$out/$method.png" --json "$@" > "$out/$method.json"
done
mlkit reconstruct image "$out/fbp.png" --scale 2 --method tv "$@" -o - > "$out/large.png"
python - "$out" <<'PYTHON'
import json, sys

scores = {}
for method in ("fbp", "tv", "crr"):
    scores[method] = json.load(open(f"{sys.argv[1]}/{method}.json"))["metrics"]
    print(f"{method}: PSNR {scores[method]['psnr']:.1f} dB")
proof = scores["crr"]["certificate"]
print("convex:", proof["convex"], "energy never rose:", proof["largest_rise"] < 1e-6)
PYTHON
