"""Tracking at low frame rates: associations without learning, ColTrack and its ablations.

`STEPS` (environment) sets the training steps of each network, `ARMS` some arms, `EVERY` some
intervals (between commas) and `DECODER` what the second stage starts from; every finished row is
printed at once, so that a run that is cut still says something.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from mlkit.core.options import RunOptions
from mlkit.core.runtime import Runtime, start
from mlkit.tasks.track.backbone import load_pretrained
from mlkit.tasks.track.checkpoint import Trained
from mlkit.tasks.track.config import (
    ClipOptions,
    ModelOptions,
    PostOptions,
    SynthConfig,
    TrackTrainOptions,
)
from mlkit.tasks.track.data import Footage, make_footage
from mlkit.tasks.track.fit import THRESHOLDS, fit_clips
from mlkit.tasks.track.follow import detect_boxes, follow_boxes, follow_queries
from mlkit.tasks.track.formats import Rows
from mlkit.tasks.track.metrics import Scores, _align, join, score_sequence
from mlkit.tasks.track.model import ColTrack
from mlkit.tasks.track.sequence import SequenceInfo, open_sequence
from mlkit.tasks.track.synth import synthesise

from ..tasks.track.test_metrics import corrupted, trackeval_scores
from .__main__ import spread

INTERVALS = (1, 3, 6, 10, 15, 30)
BASELINES = ("iou", "cv", "sort", "histogram")
TESTS = (("MOT16-11", 451), ("TUD-Stadtmitte", 1), ("PETS09-S2L1", 401))
TRAINING = (("MOT16-11", 450), ("PETS09-S2L1", 400), ("TUD-Campus", 71), ("KITTI-17", 145))
# What each arm changes: the network's options, the clips' options.
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "imagenet": ({"backbone": "efficientnet_lite0"}, {}),
    "single query": ({"bank": 1}, {}),
    "no refinement": ({"irm": False}, {}),
    "no blocking": ({"blocking": False}, {}),
    "no consistency": ({}, {"toc": False}),
    "interval 1": ({}, {"max_interval": 1}),
}
POST = PostOptions()
TRACKERS = ("iou", "cv", "sort", "byte")
# ColTrack as it is here, and nearer to the published life of queries.
FORMS = {
    "coltrack": POST,
    "coltrack without confirmation": PostOptions(confirm=0),
    "coltrack as published": PostOptions(confirm=0, nms=1),
}
Videos = Sequence[tuple[SequenceInfo, Rows]]


def chosen_arms() -> list[str]:
    return [name for name in os.environ.get("ARMS", ",".join(ARMS)).split(",") if name in ARMS]


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def brief(scores: Scores) -> dict[str, float]:
    summary = scores.summary()
    return {name: round(summary[name], 2) for name in ("IDF1", "HOTA", "AssA", "IDSW", "MOTA")}


def association(data: Path, seeds: int) -> dict[str, Any]:
    """The tables of perfect boxes: whole sequences, no training (and no seeds).

    Once as the benchmark scores, where tracks end after a second, and once by the identity of each
    box, where they end after 30 frames of the sequence whatever its rate.
    """
    table: dict[str, Any] = {}
    for name in ("MOT16-11", "TUD-Stadtmitte", "PETS09-S2L1"):
        info = open_sequence(data / "tracking" / name)
        truth = info.truth()
        for every in intervals(info):
            for method in BASELINES:
                scores = run_baseline(method, info, truth, 1, every)
                table[f"{name} k={every} {method}"] = brief(scores)
                say(name, every, method, brief(scores))
            for method in ("iou", "cv"):
                post = PostOptions(max_age=30 / info.fps)
                places = list(range(0, len(info), every))
                found = follow_boxes(method, info, places, post, truth.counted())
                counted = by_identity(truth.counted(), found.rows, found.frames)
                table[f"{name} k={every} {method} by identity"] = counted
                say(name, every, method, "by identity", counted)
    return table


def by_identity(truth: Rows, found: Rows, frames: Sequence[int]) -> dict[str, float]:
    """Score tracks of the truth's own boxes by whose box each is.

    The benchmark goes by overlap, so that a box may also stand for a neighbour that it covers.
    """
    here, there = (join([rows.at(frame) for frame in frames]) for rows in (truth, found))
    assert np.array_equal(here.boxes, there.boxes), "tracks are not of these boxes"
    object_, track = (np.unique(rows.identity, return_inverse=True)[1] for rows in (here, there))
    together = np.zeros((object_.max() + 1, track.max() + 1))
    np.add.at(together, (object_, track), 1)
    either = together.sum(1, keepdims=True) + together.sum(0) - together
    matched = together[linear_sum_assignment(-together)].sum()
    order = object_.argsort(kind="stable")
    same = object_[order][1:] == object_[order][:-1]
    switches = same & (track[order][1:] != track[order][:-1])
    return {
        "IDF1": round(100 * float(matched) / len(here), 2),
        "HOTA": round(100 * float((together**2 / either).sum() / len(here)) ** 0.5, 2),
        "IDSW": int(switches.sum()),
    }


def metrics(data: Path, seeds: int) -> dict[str, Any]:
    """The largest difference from TrackEval on real sequences, results corrupted at random."""
    names = ("MOT16-11", "TUD-Stadtmitte", "PETS09-S2L1", "TUD-Campus", "KITTI-17")
    found = {}
    for name in names:
        truth = open_sequence(data / "tracking" / name).truth()
        frames = range(1, int(truth.frame.max()) + 1)
        for seed in range(seeds):
            results = corrupted(truth.counted(), seed)
            ours = score_sequence(truth, results, frames).summary()
            theirs = trackeval_scores(_align(truth, results, frames))
            pairs = [(ours[key], 100 * theirs["HOTA"][key].mean()) for key in ("HOTA", "AssA")]
            pairs += [(ours["MOTA"], 100 * theirs["CLEAR"]["MOTA"])]
            pairs += [(ours["IDSW"], theirs["CLEAR"]["IDSW"])]
            pairs += [(ours["IDF1"], 100 * theirs["Identity"]["IDF1"])]
            found[f"{name} seed {seed}"] = max(abs(a - b) for a, b in pairs)
    return found


def run_baseline(
    method: str, info: SequenceInfo, truth: Rows, first: int, every: int, given: Rows | None = None
) -> Scores:
    places = list(range(first - 1, len(info), every))
    boxes = truth.counted() if given is None else given
    found = follow_boxes(method, info, places, POST, boxes)  # type: ignore[arg-type]
    return score_sequence(truth, found.rows, found.frames)


def learned(data: Path, seeds: int) -> dict[str, Any]:
    """Experiment 1: association of real boxes, learned, with ablations, on frames held out."""
    runtime = start(RunOptions(device="cpu"))
    tests = [(open_sequence(data / "tracking" / name), first) for name, first in TESTS]
    rows = [(info, info.truth(), first, k) for info, first in tests for k in intervals(info)]
    table: dict[str, Any] = {}
    for info, truth, first, every in rows:
        for method in BASELINES:
            scores = run_baseline(method, info, truth, first, every)
            table[f"{info.name} k={every} {method}"] = brief(scores)
            say(info.name, every, method, brief(scores))
    values: dict[str, list[float]] = {}
    for arm in chosen_arms():
        for seed in range(seeds):
            trained = Trained(arm, train_association(data, arm, seed, runtime))
            for info, truth, first, every in rows:
                places = list(range(first - 1, len(info), every))
                found = follow_queries(trained, info, places, POST, runtime, truth.counted())
                scores = brief(score_sequence(truth, found.rows, found.frames))
                say(info.name, every, arm, seed, scores)
                for metric in ("IDF1", "HOTA", "IDSW"):
                    key = f"{info.name} k={every} {arm} {metric}"
                    values.setdefault(key, []).append(scores[metric])
    return table | {key: spread(found) for key, found in values.items()}


def intervals(info: SequenceInfo) -> tuple[int, ...]:
    """Return the intervals at which a sequence still has a frame or two per second."""
    wanted = os.environ.get("EVERY")
    every = INTERVALS if wanted is None else tuple(map(int, wanted.split(",")))
    return every if info.fps > 10 else tuple(k for k in every if k <= 6)


def train_association(data: Path, arm: str, seed: int, runtime: Runtime) -> ColTrack:
    """Train one arm on the training frames, with the boxes given."""
    network, clips = ARMS[arm]
    footage = []
    for number, (name, last) in enumerate(TRAINING):
        info = open_sequence(data / "tracking" / name)
        rows = info.truth().counted()
        footage.append(Footage(info, rows, range(last), number))
    torch.manual_seed(seed)
    model = ColTrack(ModelOptions(**{"encoder_layers": 0, "size": 224, **network}))
    start_backbone(model)
    options = {"proposals": True, "box_noise": 0.0, "max_interval": 30, "noise_pairs": 0, **clips}
    fit_with(model, footage, ClipOptions(**options), seed, runtime, lr=4e-4)
    return model


def start_backbone(model: ColTrack) -> None:
    """Fill the backbone with ImageNet weights and freeze it, where it has any."""
    if model.options.backbone != "conv":
        load_pretrained(model.pyramid.backbone, model.options.backbone, None)
        model.pyramid.backbone.requires_grad_(False)


def fit_with(
    model: ColTrack,
    footage: list[Footage],
    clips: ClipOptions,
    seed: int,
    runtime: Runtime,
    lr: float,
) -> None:
    steps = int(os.environ.get("STEPS", "1500"))
    options = TrackTrainOptions(
        steps=steps, save_every=max(1, steps // 10), lr=lr, schedule="cosine"
    )
    seeded = Runtime(runtime.device, "fp32", seed, 0)
    fitted = fit_clips(model, footage, clips, options, seeded)
    say("loss", [round(entry["loss"], 3) for entry in fitted.history])


class Filmed(NamedTuple):
    """A video, its truth, and what the networks after either stage find in its single frames."""

    info: SequenceInfo
    truth: Rows
    found: dict[str, Rows]


def synthetic(data: Path, seeds: int) -> dict[str, Any]:
    """Experiment 2: end to end on generated video, beside trackers on single frames' detections.

    The detections are those of the same network ("stage 2") and those of the detector that it
    started from ("stage 1"). Every tracker's threshold is the one that did best on two videos
    set aside.
    """
    runtime = start(RunOptions(device="cpu"))
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        train, val, test = make_videos(data, Path(folder))
        footage = make_footage(train, 1)
        for seed in range(seeds):
            begin = time.process_time()
            detector, model = train_stages(footage, seed, runtime)
            values.setdefault("seconds of training", []).append(time.process_time() - begin)
            trained = Trained("coltrack", model)
            stages = {"stage 1": detector, "stage 2": model}
            chosen = choose(trained, film(val, stages, runtime), runtime)
            filmed = film(test, stages, runtime)
            for every in (1, 2, 4, 8, 16):
                for name, thresh in chosen.items():
                    scores = follow(name, thresh, trained, filmed, every, runtime)
                    say(seed, every, name, thresh, brief(scores))
                    for metric in ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDSW"):
                        key = f"k={every} {name} {metric}"
                        values.setdefault(key, []).append(scores.summary()[metric])
    return {key: spread(found) for key, found in values.items()}


def film(videos: Videos, stages: Mapping[str, ColTrack], runtime: Runtime) -> list[Filmed]:
    """Detect in all frames of all videos, with each network."""

    def found(model: ColTrack, info: SequenceInfo) -> Rows:
        return detect_boxes(Trained("", model), info, range(len(info)), POST.nms, runtime)

    return [
        Filmed(info, truth, {name: found(model, info) for name, model in stages.items()})
        for info, truth in videos
    ]


def make_videos(data: Path, folder: Path) -> list[Videos]:
    """Generate 16 videos to train on, 2 to choose thresholds by and 4 to test on."""
    backgrounds = data / "images" / "BSDS300_train_color_192"
    parts = []
    for name, count, seed in (("train", 16, 1), ("val", 2, 3), ("test", 4, 2)):
        out = folder / name
        synthesise(
            SynthConfig(out=out, videos=count, frames=96, backgrounds=backgrounds, seed=seed)
        )
        infos = [open_sequence(path) for path in sorted(out.iterdir())]
        parts.append([(info, info.truth()) for info in infos])
    return parts


def train_stages(footage: list[Footage], seed: int, runtime: Runtime) -> tuple[ColTrack, ColTrack]:
    """Train the detector on a frozen ImageNet backbone, then the tracker.

    As in the paper the second stage starts a decoder anew on the frozen encoder with DECODER=anew;
    else, which is soon better, it goes on with all that the detector has learnt.
    """
    torch.manual_seed(seed)
    model = ColTrack(ModelOptions(backbone="efficientnet_lite0", size=256))
    start_backbone(model)
    fit_with(model, footage, ClipOptions(stage="detect", noise_pairs=30), seed, runtime, lr=4e-4)
    detector = copy.deepcopy(model)
    anew = os.environ.get("DECODER", "kept") == "anew"
    if anew:
        model.stage_two()
    clips = ClipOptions(stage="track" if anew else "joint", max_interval=16, noise_pairs=10)
    fit_with(model, footage, clips, seed, runtime, lr=4e-4)
    return detector, model


def choose(trained: Trained, filmed: Sequence[Filmed], runtime: Runtime) -> dict[str, float]:
    """Return each tracker's threshold with the best mean HOTA at intervals 2 and 8."""
    names = list(FORMS) + [f"{name}, {stage}" for stage in filmed[0].found for name in TRACKERS]

    def score(name: str, thresh: float) -> float:
        runs = (follow(name, thresh, trained, filmed, every, runtime) for every in (2, 8))
        return sum(run.summary()["HOTA"] for run in runs)

    return {name: max(THRESHOLDS, key=lambda thresh: score(name, thresh)) for name in names}


def follow(
    name: str,
    thresh: float,
    trained: Trained,
    filmed: Sequence[Filmed],
    every: int,
    runtime: Runtime,
) -> Scores:
    """Score one tracker on every k-th frame of all videos."""
    method, _, stage = name.partition(", ")
    total, post = Scores(), FORMS.get(name, POST).model_copy(update={"thresh": thresh})
    for info, truth, found in filmed:
        places = list(range(0, len(info), every))
        if name in FORMS:
            tracks = follow_queries(trained, info, places, post, runtime)
        else:
            tracks = follow_boxes(method, info, places, post, found[stage])  # type: ignore[arg-type]
        total += score_sequence(truth, tracks.rows, tracks.frames)
    return total
