"""One small job per method on generated data, so that a test can ask the same of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlkit.tasks.labelnoise.handover import draw_shapes

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


class Job(NamedTuple):
    """Command lines of a method: training (without -o), its own job, and one that takes weights.

    `use` writes something for INPUT, which ends in `suffix`, into the folder OUT, as `score` may.
    Methods without training, or without weights of their own, leave `train` or `score` empty.
    """

    train: str
    use: str
    suffix: str
    score: str


JOBS = {
    "prune": Job(
        "train prune shapes --image-size 16 --batch-size 64 --epochs 4",
        "check prune INPUT",
        "",
        "eval prune shapes",
    ),
    "labelnoise": Job(
        "train labelnoise labels.csv --image-size 12 --epochs 3 --warmup-epochs 1",
        "labelnoise INPUT --image-size 12 --epochs 1 --folds 0 -o OUT/report.csv",
        ".csv",
        "eval labelnoise shapes",
    ),
    "denoise": Job(
        "train denoise photos --kernel-size 3 --channels 4 --patch 20 --tune 0 --steps 40 "
        "--save-every 5",
        "denoise INPUT -o OUT/clean.png",
        ".png",
        "denoise photos/0.png -o OUT/clean.png",
    ),
    "reconstruct": Job(
        "",
        "reconstruct image INPUT --scale 2 --tol 1e-2 -o OUT/large.png",
        ".png",
        "",
    ),
    "forecast": Job(
        "train forecast road/speeds.csv -g road/distances.csv --rounds 6 --hidden 4 "
        "--server-hidden 6 --server-size 5 --stride 8 --eval-stride 8 --batch-size 16",
        "forecast INPUT -o OUT/forecast.csv",
        ".csv",
        "forecast road/speeds.csv -g road/distances.csv -o OUT/forecast.csv",
    ),
    "pretrain": Job(
        "pretrain videos/labels.csv --frames 4 --stride 2 --size 24 --width 0.25 --batch-size 4 "
        "--epochs 6",
        "data video-features INPUT --random-init -o OUT/features.npz",
        ".mp4",
        "eval pretrain videos/labels.csv",
    ),
    "recommend": Job(
        "train recommend shop/log.csv --steps 60 --save-every 5 --dim 8 --batch-size 32",
        "recommend INPUT --all-users -o OUT/lists.csv",
        ".csv",
        "eval recommend shop/log.csv",
    ),
    "track": Job(
        "train track seen --width 8 --dim 32 --heads 4 --encoder-layers 0 --ffn 32 "
        "--decoder-layers 2 --queries 8 --size 64 --clip-length 2 --noise-pairs 4 "
        "--steps 8 --save-every 1",
        "track INPUT -o OUT/tracks.txt",
        ".mp4",
        "track seen/synth-0001 -o OUT/tracks.txt",
    ),
    "segment": Job(
        "train segment world/refs.jsonl --image-size 32 --steps 12 --save-every 2",
        "segment INPUT circle -o OUT/mask.png",
        ".png",
        "eval segment world/refs.jsonl",
    ),
    "transcribe": Job(
        f"train transcribe {DIGITS} --unlabelled {DIGITS} --units word --rate 8000 "
        "--mel-bins 12 --width 8 --steps 12 --save-every 2 --batch-size 4 --pseudo-steps 8",
        "transcribe INPUT -o OUT/said.txt",
        ".wav",
        f"transcribe {DIGITS} -o OUT",
    ),
    "upscale": Job(
        "train upscale photos --width 4 --depth 3 --patch 24 --support 1 --query 1 "
        "--inner-steps 1 --pretrain 4 --steps 12 --save-every 2 --batch-size 1",
        "upscale INPUT -o OUT/big.png",
        ".png",
        "upscale photos/0.png -o OUT/big.png",
    ),
    "zeroshot": Job(
        "train zeroshot --nodes induced --classes unseen.txt --hidden 16 --epochs 20 "
        "--save-every 4",
        "zeroshot INPUT --among giraffe,okapi -o OUT/answers.csv",
        ".jpg",
        "zeroshot photos/0.png --among giraffe,okapi -o OUT/answers.csv",
    ),
}


def sound_input(method: str) -> Path:
    """Return an input that the method accepts; relative ones lie in the furnished folder."""
    return {
        "prune": Path("shapes"),
        "labelnoise": Path("labels.csv"),
        "forecast": Path("road/speeds.csv"),
        "pretrain": Path("videos/labels.csv"),
        "recommend": Path("shop/log.csv"),
        "track": Path("seen/synth-0001"),
        "transcribe": DIGITS / "0_jackson_0.wav",
    }.get(method, Path("photos/0.png"))


def furnish(folder: Path, mlkit: Callable[..., int]) -> None:
    """Write the inputs of all jobs into `folder`, which is the current one."""
    draw_shapes(folder, 0)
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(4):
        pixels = random.integers(0, 255, (9, 10, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC)
        picture.save(folder / "photos" / f"{number}.png")
    (folder / "unseen.txt").write_text("giraffe\nokapi\n")
    for line in (
        "data forecast-synth --sensors 4 --days 4 -o road",
        "data sprite-videos --videos 12 --side 28 --length 16 -o videos",
        "data recommend-synth --users 200 --catalogue 60 -o shop",
        "data track-synth --videos 1 --frames 16 --frame-width 96 --frame-height 64 -o seen",
        "data refer-synth --scenes 16 --test-scenes 4 --image-size 32 -o world",
    ):
        assert mlkit(*line.split(), "--quiet") == 0, line
