#!/usr/bin/env bash
# Denoise an image in a pipe and with a certificate, and read the proof with Python.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

python - "$out/noisy.png" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

y, x = np.mgrid[0:96, 0:128]
clean = 110 + 70 * np.sin(x / 11) * np.cos(y / 17) + 60 * (x > y)
noisy = clean + np.random.default_rng(0).normal(0, 15, clean.shape)
Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(sys.argv[1])
PYTHON
mlkit denoise - -o - "$@" < "$out/noisy.png" > "$out/piped.png"
mlkit denoise "$out/noisy.png" -o "$out/clean.png" --plot "$out/strip.png" --certify --json "$@" \
  > "$out/proof.json"
python - "$out/proof.json" <<'PYTHON'
import json, sys

(image,) = json.load(open(sys.argv[1]))["metrics"]["images"].values()
(proof,) = image["certificates"]
print("noise:", [round(level, 1) for level in image["sigma"]])
print("convex:", proof["convex"], "error at most:", round(proof["distance_rms"], 3))
PYTHON
