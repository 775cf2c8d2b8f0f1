#!/usr/bin/env bash
# Make a picture small with a known blur, enlarge it in a pipe and with numbers, compare.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

python - "$out" <<'PYTHON'
import sys

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

y, x = np.mgrid[0:128, 0:160]
waves = [110 + 70 * np.sin(x / (6 + c)) * np.cos(y / 9) + 60 * (x > y + 8 * c) for c in range(3)]
sharp = np.clip(np.stack(waves, -1), 0, 255)
small = gaussian_filter(sharp, (2**0.5, 2**0.5, 0))[::2, ::2]  # a variance of 2
Image.fromarray(sharp.round().astype(np.uint8)).save(f"{sys.argv[1]}/sharp.png")
Image.fromarray(small.round().astype(np.uint8)).save(f"{sys.argv[1]}/small.png")
PYTHON
mlkit upscale - -o - --steps 1 < "$out/small.png" > "$out/piped.png"
mlkit upscale "$out/small.png" -o "$out/bicubic.png" --method bicubic -q
mlkit upscale "$out/small.png" -o "$out/big.png" --kernel gaussian:2 --sampling direct --json "$@" \
  > "$out/run.json"
python - "$out" <<'PYTHON'
import json
import sys

import numpy as np
from PIL import Image

folder = sys.argv[1]
sharp, big, bicubic = (
    np.asarray(Image.open(f"{folder}/{name}.png")).astype(float)
    for name in ("sharp", "big", "bicubic")
)
(image,) = json.load(open(f"{folder}/run.json"))["metrics"]["images"].values()
print("size:", image["size"], "steps:", image["stages"][0]["steps"])
errors = [float(np.abs(found - sharp).mean()) for found in (big, bicubic)]
print("error in grey levels below bicubic:", errors[0] < errors[1])
PYTHON
