#!/usr/bin/env bash
# Clean a noisy picture and enlarge it in one pipe, then name what it shows.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

python - "$here/photos/cat.jpg" "$out/noisy.png" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

clean = np.asarray(Image.open(sys.argv[1]).resize((112, 112)), float)
noisy = clean + np.random.default_rng(0).normal(0, 12, clean.shape)
Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(sys.argv[2])
PYTHON
mlkit denoise "$out/noisy.png" -o - | mlkit upscale - -o "$out/big.png" --kernel bicubic "$@"
mlkit zeroshot "$out/big.png" --among "domestic cat,giraffe,n03147509" --json > "$out/answer.json"
python - "$out" <<'PYTHON'
import json, sys

from PIL import Image

best = json.load(open(f"{sys.argv[1]}/answer.json"))["metrics"]["images"][0]["classes"][0]
print(f"{Image.open(f'{sys.argv[1]}/big.png').size} pixels show: {best['class']}")
PYTHON
