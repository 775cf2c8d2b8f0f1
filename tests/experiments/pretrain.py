"""Experiments of `pretrain`: what clips further apart in time are worth, on three kinds of video.

All arms of a comparison see the same number of clips. `STEPS=300` shortens the training, `ARMS`
runs some arms (names between semicolons).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import Runtime, start
from mlkit.tasks.pretrain import probe
from mlkit.tasks.pretrain.apply import learn
from mlkit.tasks.pretrain.backbones import build_backbone
from mlkit.tasks.pretrain.checkpoint import Trained, part
from mlkit.tasks.pretrain.config import (
    BackboneOptions,
    ClipOptions,
    FinetuneTraining,
    PretrainConfig,
    PretrainTraining,
    ReadOptions,
    SpritesConfig,
    TrackletsConfig,
    TrainConfig,
    resolve,
)
from mlkit.tasks.pretrain.data import even_clips
from mlkit.tasks.pretrain.describe import outputs
from mlkit.tasks.pretrain.fit import fine_tune
from mlkit.tasks.pretrain.footage import Footage, Gathered, gather
from mlkit.tasks.pretrain.listing import VideoSet, class_numbers, open_set
from mlkit.tasks.pretrain.sprites import make_sprites
from mlkit.tasks.pretrain.tracklets import cut_tracklets

from .__main__ import spread

Scores = dict[str, float]
Arms = Mapping[str, dict[str, Any]]
STEPS = 1500
NETWORK = {"backbone": "tiny", "width": 0.5, "hidden": 128, "dim": 64}
TIMES = {f"simclr rho={rho}": {"method": "simclr", "clips": rho} for rho in (1, 2, 4)}
BOTH = {**TIMES, **{f"byol rho={rho}": {"method": "byol", "clips": rho} for rho in (1, 2, 4)}}


@dataclass(frozen=True)
class Study:
    """Videos to learn from, what a clip is, and how features of other videos are scored."""

    train: Gathered
    options: dict[str, Any]
    batch: int
    measure: Callable[[Callable[..., Tensor]], Scores]

    def compare(self, arms: Arms, seeds: int) -> dict[str, Any]:
        """Return the scores of a random network and of every arm, spread over seeds.

        The steps are those of two clips per video; other arms see as many clips in all.
        """
        steps, found = int(os.environ.get("STEPS", STEPS)), {}
        if "ARMS" in os.environ:
            arms = {name: arms[name] for name in os.environ["ARMS"].split(";")}
        for seed in range(seeds):
            self._add(found, seed, "random", self._score(self._random(seed), seed))
            for name, arm in arms.items():
                begin = time.process_time()
                network = self._learn(arm, steps, seed)
                scores = self._score(network, seed)
                scores["cpu s"] = time.process_time() - begin
                self._add(found, seed, name, scores)
        table = {arm: {k: spread(v) for k, v in row.items()} for arm, row in found.items()}
        return {"steps": steps, **table}

    def _config(self, arm: dict[str, Any]) -> PretrainConfig:
        return PretrainConfig(videos="-", monitor=False, **{**NETWORK, **self.options, **arm})

    def _learn(self, arm: dict[str, Any], steps: int, seed: int) -> nn.Module:
        runtime = start(RunOptions(seed=seed, device="cpu", precision="bf16"))
        clips = max(2, arm.get("clips", 2))
        training = PretrainTraining(steps=max(1, 2 * steps // clips), batch_size=self.batch, lr=0.1)
        if arm["method"] == "byol":
            training = training.model_copy(update={"lr": 1e-3})
        config, training = resolve(self._config(arm), training)
        framework, _ = learn(self.train, config, training, runtime)
        return framework.model.backbone  # type: ignore[return-value]

    def _random(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_backbone("tiny", NETWORK["width"])[0]  # type: ignore[arg-type]

    def _score(self, network: nn.Module, seed: int) -> Scores:
        runtime = start(RunOptions(seed=seed, device="cpu"))
        clip = part(self._config({}), ClipOptions)

        def views(footage: tuple[Footage, ...], count: int) -> Tensor:
            return outputs(network, footage, clip, count, 1, 64, runtime, Silent())

        return self.measure(views)

    def _add(self, found: dict[str, Any], seed: int, arm: str, scores: Scores) -> None:
        for key, value in scores.items():
            found.setdefault(arm, {}).setdefault(key, []).append(value)
        _say(seed, arm, {key: round(value, 2) for key, value in scores.items()})


def _say(*words: Any) -> None:
    print(json.dumps(words), file=sys.stderr, flush=True)


def _gather(videos: VideoSet, short: int, folder: str) -> Gathered:
    return gather(videos, ReadOptions(), short, Path(folder), Silent())


# --- experiment 1: recordings of two people each ---

PEOPLE = {"frames": 4, "stride": 8, "size": 48, "crop_min": 0.3, "crop_max": 0.9}


def recordings(data: Path, seeds: int) -> dict[str, Any]:
    """UT-Interaction, SimCLR and BYOL, steps of 24 videos at two clips each."""
    with tempfile.TemporaryDirectory() as folder:
        table = data / "videos" / "ut_interaction" / "labels.csv"
        videos = _gather(open_set(table, "name"), 56, folder)
        groups = videos.videos.columns["sequence"]
        actions, _ = class_numbers(videos.videos.columns["label"], str(table))
        folds = probe.folds_by_group(groups)

        def judge(views: Tensor) -> Scores:
            same = probe.same_video(views)
            return {
                "same recording": 100 * probe.same_group(views.mean(1), groups).rank1.value,
                "first to last": 100 * same.rank1.value,
                "action, linear": 100 * probe.linear_probe(views.mean(1), actions, folds).value,
            }

        study = Study(videos, PEOPLE, 24, lambda views: judge(views(videos.footage, 3)))
        clip = ClipOptions(**{key: PEOPLE[key] for key in ("frames", "stride", "size")})
        found = {"7 x 7 pixel means": judge(_means(videos.footage, clip))}
        _say("7 x 7 pixel means", found["7 x 7 pixel means"])
        found |= study.compare(BOTH, seeds)
        found["supervised, action, one seed"] = _supervised(videos, actions, folds, clip, 0)
        return found


def _means(footage: tuple[Footage, ...], clip: ClipOptions) -> Tensor:
    """Return the means of 7 x 7 fields of each clip's frames, (N, 3, 147)."""
    every = torch.stack([even_clips(item, clip, 3) for item in footage]).mean(3)
    return F.adaptive_avg_pool2d(every.flatten(0, 1), 7).flatten(1).view(len(footage), 3, -1)


def _supervised(
    videos: Gathered, labels: list[int], folds: list[probe.Fold], clip: ClipOptions, seed: int
) -> float:
    """Return the accuracy, %, of the same network trained on the actions, over the same folds."""
    runtime: Runtime = start(RunOptions(seed=seed, device="cpu"))
    options = BackboneOptions(backbone="tiny", width=0.5)
    config = TrainConfig(data="-", random_init=True)
    training = FinetuneTraining(steps=300, batch_size=24, lr=1e-3, optimizer="adamw")
    classes = [str(k) for k in range(max(labels) + 1)]
    hits = total = 0
    for train, test in folds:
        torch.manual_seed(seed)
        trained = Trained(build_backbone("tiny", 0.5)[0], options, clip, ReadOptions())
        chosen = [videos.footage[i] for i in train]
        part_ = Gathered(videos.videos.take(train.tolist()), tuple(chosen), {})
        model, _ = fine_tune(
            trained, part_, [labels[i] for i in train], config, training, runtime, classes=classes
        )
        held = [videos.footage[i] for i in test]
        guessed = outputs(model, held, clip, 3, 1, 64, runtime, Silent()).softmax(2).mean(1)
        hits += int((guessed.argmax(1) == torch.tensor(labels)[test]).sum())
        total += len(test)
        _say("supervised", seed, hits, total)
    return 100 * hits / total


# --- experiment 2: people cut out of street scenes ---

# Clothes are told by their colours: the usual change of hue would forbid it.
PERSON = {"frames": 4, "stride": 3, "size": 32, "squash": True, "crop_min": 0.3, "crop_max": 0.9,
          "colour": 0.2, "grey": 0.0}  # fmt: skip
STRONG = {f"{name}, strong colours": {**arm, "colour": 0.6, "grey": 0.2}
          for name, arm in TIMES.items()}  # fmt: skip


def tracklets(data: Path, seeds: int) -> dict[str, Any]:
    """Identity of people never seen before, SimCLR and BYOL, steps of 24 people."""
    return _tracklets(data, seeds, BOTH)


def tracklets_colours(data: Path, seeds: int) -> dict[str, Any]:
    """SimCLR with the usual strong changes of colour."""
    return _tracklets(data, seeds, STRONG)


def _tracklets(data: Path, seeds: int, arms: Arms) -> dict[str, Any]:
    """Learn from MOT16-11, frames 1-450, and PETS09, 1-400; score on MOT16-11, 451-900."""
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "a": ("MOT16-11", {"last": 450}),
            "b": ("PETS09-S2L1", {"last": 400}),
            "test": ("MOT16-11", {"first": 451}),
        }
        for name, (sequence, frames) in parts.items():
            out = Path(folder) / ("test" if name == "test" else f"train/{name}")
            source = data / "tracking" / sequence
            cut_tracklets(TrackletsConfig(sequence=source, out=out, **frames))  # type: ignore[arg-type]
        train, test = (_gather(open_set(Path(folder) / n), 24, folder) for n in ("train", "test"))
        colours = _found(probe.same_video(_histograms(test.footage)))
        counts = {"train people": len(train.footage), "test people": len(test.footage)}
        _say(counts, "HSV histogram", colours)
        study = Study(
            train, PERSON, 24, lambda views: _found(probe.same_video(views(test.footage, 3)))
        )
        return {**counts, "HSV histogram": colours, **study.compare(arms, seeds)}


def _found(found: probe.Found) -> Scores:
    return {"rank-1": 100 * found.rank1.value, "mAP": 100 * found.mean_ap}


def _histograms(footage: tuple[Footage, ...]) -> Tensor:
    """Return square roots of HSV histograms (8 x 4 x 4) of upper and lower halves, (N, 2, 256).

    Their inner product is Bhattacharyya's coefficient. Of the first and last 12 frames, every
    third, as the clips of the networks.
    """
    from matplotlib.colors import rgb_to_hsv

    found = []
    for item in footage:
        for begin in (0, item.length - 12):
            frames = item.read(begin + 3 * np.arange(4), (0, 0, item.height, item.width))
            hsv = rgb_to_hsv(frames / 255)
            halves = np.array_split(hsv, 2, axis=1)
            counts = [
                np.histogramdd(half.reshape(-1, 3), bins=(8, 4, 4), range=[(0, 1)] * 3)[0]
                for half in halves
            ]
            both = np.concatenate([count.ravel() / count.sum() for count in counts])
            found.append(np.sqrt(both))
    return torch.tensor(np.array(found), dtype=torch.float32).view(len(footage), 2, -1)


# --- experiment 3: pictures that move ---

SPRITE = {"frames": 4, "stride": 4, "size": 32, "crop_min": 0.3, "crop_max": 0.9}
GAPS = {
    f"max gap {frames} frames": {"method": "simclr", "clips": 2, "max_gap": max(frames, 0.1) / 25}
    for frames in (0, 4, 16)
} | {"any gap": {"method": "simclr", "clips": 2}}
ABLATIONS: Arms = {
    "simclr": {"method": "simclr"},
    "byol": {"method": "byol"},
    "moco": {"method": "moco"},
    "swav": {"method": "swav"},
    "simclr, no colour": {"method": "simclr", "colour": 0.0, "grey": 0.0},
    "simclr, no crop": {"method": "simclr", "crop_min": 1.0, "crop_max": 1.0},
    "byol without EMA": {"method": "byol", "teacher_momentum": 0.0, "anneal": False},
    "moco, norm in the head": {"method": "moco", "head_norm": True},
}


def sprites(data: Path, seeds: int) -> dict[str, Any]:
    """CIFAR-10 pictures on the move, SimCLR and BYOL."""
    return _sprites(data, seeds, BOTH)


def gap(data: Path, seeds: int) -> dict[str, Any]:
    """The same videos, SimCLR with two clips at most so many frames apart."""
    return _sprites(data, seeds, GAPS)


def ablations(data: Path, seeds: int) -> dict[str, Any]:
    """The same videos: the four frameworks, and what parts of them are worth."""
    return _sprites(data, seeds, ABLATIONS)


def _sprites(data: Path, seeds: int, arms: Arms) -> dict[str, Any]:
    """Probe the class of the picture, which lasts, and its motion, which does not.

    2,000 videos to learn from, 500 others to score.
    """
    learnt, scored = 2000, 500
    with tempfile.TemporaryDirectory() as folder:
        sets = []
        for name, count, seed in (("train", learnt, 1), ("test", scored, 2)):
            config = SpritesConfig(
                images=data / "cifar10" / name,
                out=Path(folder) / name,
                videos=count,
                seed=seed,
            )
            make_sprites(config)
            sets.append(_gather(open_set(Path(folder) / name / "labels.csv"), 48, folder))
        train, test = sets
        columns = [{**part_.videos.columns} for part_ in sets]
        numbers = {
            key: class_numbers((*columns[0][key], *columns[1][key]), key)[0]
            for key in ("label", "motion")
        }
        fold = [(np.arange(learnt), np.arange(learnt, learnt + scored))]
        every = (*train.footage, *test.footage)

        def judge(views: Callable[..., Tensor]) -> Scores:
            found = views(every, 3)
            same = probe.same_video(found[learnt:])
            return {
                "class": 100 * probe.linear_probe(found.mean(1), numbers["label"], fold).value,
                "motion": 100 * probe.linear_probe(found.mean(1), numbers["motion"], fold).value,
                "first to last": 100 * same.rank1.value,
            }

        return Study(train, SPRITE, 32, judge).compare(arms, seeds)
