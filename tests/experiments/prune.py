"""Experiments of `prune`: how much accuracy each way of repairing brings back."""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from mlkit.core.inputs import InputSpec
from mlkit.core.media import find_images
from mlkit.core.metrics import Proportion
from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import Runtime, start, stream
from mlkit.core.training import Objective, fit
from mlkit.tasks.prune.backbone import Backbone, choose_taps, find_backbone
from mlkit.tasks.prune.checkpoint import load
from mlkit.tasks.prune.config import PlanOptions, PruneConfig, TrainConfig
from mlkit.tasks.prune.data import Labelled, open_labelled, to_inputs
from mlkit.tasks.prune.fit import train
from mlkit.tasks.prune.plan import Plan, find_layers, make_plan
from mlkit.tasks.prune.repair import compensate, finetune, reestimate_norms
from mlkit.tasks.prune.score import accuracy
from mlkit.tasks.prune.surgery import apply_slices
from mlkit.tasks.prune.synthesis import make_settings, synthesise
from mlkit.tasks.prune.zoo import open_model

from .__main__ import spread

STEPS, BATCH, LR = 150, 64, 0.01


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def recovery(data: Path, seeds: int) -> dict[str, Any]:
    """Table of section 8b on CIFAR-10 (JPEG) with the published ResNet-20, s = 0.5 and 0.75."""
    model, recipe = open_model(
        "",
        str(data / "weights" / "cifar10_resnet20.safetensors"),
        None,
        "tests.experiments.networks:cifar_resnet20",
        False,
    )
    return _recovery(model, recipe.input, data, seeds)


def recovery_small(data: Path, seeds: int) -> dict[str, Any]:
    """The same in the size of the specification's own table: a shallow network at 16 pixels.

    The network is trained here first, on the training images in the form that the test has.
    """
    with tempfile.TemporaryDirectory() as folder:
        train(
            TrainConfig(data=data / "cifar10" / "train", image_size=16, out=Path(folder)),
            TrainOptions(epochs=8, warmup=200),
            RunOptions(),
        )
        model, recipe = load(Path(folder) / "best.safetensors", with_recipe=True)
    _say("the network is trained")
    return _recovery(model, recipe.input, data, seeds)


def _recovery(model: nn.Module, spec: InputSpec, data: Path, seeds: int) -> dict[str, Any]:
    """Score all ways of repairing on every fifth test image, for two sparsities."""
    test = _every_nth(open_labelled(data / "cifar10" / "test"), 5)
    training = open_labelled(data / "cifar10" / "train")
    tables: dict[str, dict[str, list[float]]] = {"0.5": {}, "0.75": {}}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed))
        sources = _sources(model, spec, training, runtime)
        for sparsity, table in tables.items():
            backbone = find_backbone(model, (3, spec.size, spec.size))
            arms = _Arms(model, backbone, float(sparsity), test, spec, runtime, sources)
            for name, score in arms.all().items():
                table.setdefault(name, []).append(100 * score.value)
                _say(f"seed {seed} s {sparsity} {name}: {score}")
    return {
        "test images": len(test),
        "top-1 %": {s: {name: spread(v) for name, v in t.items()} for s, t in tables.items()},
    }


def _every_nth(data: Labelled, step: int) -> Labelled:
    return Labelled(list(data.images)[::step], data.labels[::step], data.classes)


def _sources(
    model: nn.Module, spec: InputSpec, training: Labelled, runtime: Runtime
) -> dict[str, Tensor]:
    """Return 256 synthetic, noise and real inputs each."""
    config = PruneConfig(synthetic_images=256, iterations=200)
    synthetic = synthesise(
        model, spec, make_settings(config, spec.size), runtime, Silent(), classes=10
    )
    chosen = torch.randperm(len(training), generator=stream(runtime.seed, 77))[:256]
    noise = torch.randn(synthetic.shape, generator=stream(runtime.seed, 78))
    real = to_inputs([training.images[i] for i in chosen], spec)
    _say(f"seed {runtime.seed}: images ready")
    return {"synthetic": synthetic, "noise": noise, "real": real}


class _Distillation(Objective):
    """Knowledge distillation on logits at temperature 4 (Hinton et al. 2015)."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.model, self._teacher = student, (teacher,)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = (self._teacher[0](batch) / 4).softmax(1)
        logits = (self.model(batch) / 4).log_softmax(1)
        return {"loss": 16 * F.kl_div(logits, wanted, reduction="batchmean")}


class _Tensors:
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        return self.images[indices]


class _Arms:
    """All ways of repairing one pruned network."""

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        sparsity: float,
        test: Labelled,
        spec: InputSpec,
        runtime: Runtime,
        sources: dict[str, Tensor],
    ) -> None:
        self.model, self.backbone, self.test, self.spec = model, backbone, test, spec
        self.runtime, self.sources, self.sparsity = runtime, sources, sparsity
        self.plan = self._plan("l1")

    def _plan(self, criterion: str) -> Plan:
        layers = find_layers(self.backbone, "inner", criterion)
        options = PlanOptions(sparsity=self.sparsity, min_channels=1)
        return make_plan(self.backbone, layers, options, "uniform")

    def _pruned(self, plan: Plan | None = None) -> nn.Module:
        pruned = copy.deepcopy(self.model)
        apply_slices(pruned, (plan or self.plan).slices)
        return pruned

    def _score(self, model: nn.Module) -> Proportion:
        return accuracy(model.eval(), self.test, self.spec, self.runtime)["top1"]

    def all(self) -> dict[str, Proportion]:
        scores = {"teacher": self._score(self.model), "no repair": self._score(self._pruned())}
        scores["no repair, l2 criterion"] = self._score(self._pruned(self._plan("l2")))
        compensated = self._pruned()
        compensate(self.backbone, compensated, self.plan.slices, self.plan.removed)
        scores["compensate"] = self._score(compensated)
        for name, images in self.sources.items():
            norms = self._pruned()
            reestimate_norms(norms, images)
            scores[f"BN re-estimation, {name}"] = self._score(norms)
            scores[f"intermediate, {name}"] = self._finetuned(images, "block")
        synthetic = self.sources["synthetic"]
        scores["intermediate, synthetic, BN frozen"] = self._finetuned(synthetic, "block", False)
        scores["output-only, synthetic"] = self._finetuned(synthetic, "output")
        scores["logit distillation, synthetic"] = self._distilled(synthetic)
        return scores

    def _options(self) -> TrainOptions:
        return TrainOptions(steps=STEPS, batch_size=BATCH, lr=LR, schedule="step", save_every=30)

    def _finetuned(self, images: Tensor, tap: str, update_norms: bool = True) -> Proportion:
        pruned = self._pruned()
        taps = choose_taps(self.backbone, self.plan.removed, tap)
        finetune(
            self.backbone,
            pruned,
            taps,
            images,
            self._options(),
            self.runtime,
            Silent(),
            tap=tap,
            update_norms=update_norms,
        )
        return self._score(pruned)

    def _distilled(self, images: Tensor) -> Proportion:
        pruned = self._pruned().train()
        objective = _Distillation(pruned, self.model.eval())
        fit(objective, _Tensors(images), self._options(), self.runtime, method="prune")
        return self._score(pruned)


def imagenet(data: Path, seeds: int) -> dict[str, Any]:
    """EfficientNet-Lite0 on 500 ImageNet photos: before, pruned, repaired without data."""
    model, recipe = open_model("efficientnet_lite0", None, None, None, False)
    photos = open_labelled(data / "imagenet_samples", data / "imagenet_samples" / "labels.tsv")
    shape = (3, recipe.input.size, recipe.input.size)
    tables: dict[str, dict[str, list[float]]] = {"0.1": {}, "0.25": {}}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed))
        backbone = find_backbone(model, shape)
        config = PruneConfig(synthetic_images=32, iterations=200, synthesis_batch=32)
        images = synthesise(
            model,
            recipe.input,
            make_settings(config, recipe.input.size),
            runtime,
            Silent(),
            classes=1000,
        )
        _say(f"seed {seed}: images ready")
        for sparsity, table in tables.items():
            layers = find_layers(backbone, "inner", "l1")
            plan = make_plan(backbone, layers, PlanOptions(sparsity=float(sparsity)), "uniform")
            pruned = copy.deepcopy(model)
            apply_slices(pruned, plan.slices)
            scores = {} if "original" in table and seed else {"original": model}
            scores["pruned"] = pruned
            norms = copy.deepcopy(pruned)
            reestimate_norms(norms, images)
            scores["norms re-estimated"] = norms
            repaired = copy.deepcopy(pruned)
            _repair_large(backbone, repaired, plan, images, runtime)
            scores["repaired"] = repaired
            for name, network in scores.items():
                network.to(memory_format=torch.channels_last)
                top1 = accuracy(network.eval(), photos, recipe.input, runtime)["top1"]
                table.setdefault(name, []).append(100 * top1.value)
                _say(f"seed {seed} s {sparsity} {name}: {top1}")
    return {
        "photos": len(photos),
        "top-1 %": {s: {name: spread(v) for name, v in t.items()} for s, t in tables.items()},
    }


def _repair_large(
    backbone: Backbone, root: nn.Module, plan: Plan, images: Tensor, runtime: Runtime
) -> None:
    """Repair as `mlkit prune` does by default for images above 64 pixels."""
    options = TrainOptions(steps=60, batch_size=14, lr=LR, schedule="step", save_every=10)
    taps = choose_taps(backbone, plan.removed, "block")
    finetune(
        backbone,
        root,
        taps,
        images,
        options,
        runtime,
        Silent(),
        update_norms=False,
        trial=True,
    )


def detector(data: Path, seeds: int) -> dict[str, Any]:
    """FastestDet on COCO photographs: which of the original's detections survive."""
    weights = str(data / "weights" / "coco_fastestdet.safetensors")
    model, recipe = open_model("", weights, None, "tests.experiments.networks:fastestdet", False)
    swap_colours(model)
    paths = find_images(data / "referring")[:64]
    photos = to_inputs(paths, recipe.input)
    original = detections(model, photos)
    tables: dict[str, dict[str, list[float]]] = {"0.1": {}, "0.25": {}}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed))
        backbone = find_backbone(model, (3, 352, 352))
        config = PruneConfig(synthetic_images=16, iterations=150, synthesis_batch=16)
        settings = make_settings(config, recipe.input.size)
        images = synthesise(backbone.root, recipe.input, settings, runtime, Silent())
        for sparsity, table in tables.items():
            layers = find_layers(backbone, "inner", "l1")
            plan = make_plan(backbone, layers, PlanOptions(sparsity=float(sparsity)), "uniform")
            pruned = copy.deepcopy(model)
            apply_slices(pruned, plan.slices)
            table.setdefault("pruned", []).append(agreement(original, detections(pruned, photos)))
            norms = copy.deepcopy(pruned)
            reestimate_norms(norms.get_submodule(backbone.prefix), images)
            table.setdefault("norms re-estimated", []).append(
                agreement(original, detections(norms, photos))
            )
            _repair_large(backbone, pruned.get_submodule(backbone.prefix), plan, images, runtime)
            table.setdefault("repaired", []).append(agreement(original, detections(pruned, photos)))
            _say(f"seed {seed} s {sparsity}: { ({k: v[-1] for k, v in table.items()}) }")
    return {
        "photos": len(photos),
        "detections of the original": sum(len(boxes) for boxes, _ in original),
        "F1 against the original's detections": {
            s: {name: spread(v) for name, v in t.items()} for s, t in tables.items()
        },
    }


def swap_colours(model: nn.Module) -> None:
    """Turn a network for BGR images into one for RGB, by swapping its first weights."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.weight.data = first.weight.data.flip(1)


Detections = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def detections(model: nn.Module, photos: Tensor, threshold: float = 0.4) -> Detections:
    """Return boxes (n, 4) as corners in [0, 1] and classes (n,) of each photo."""
    found = []
    for output in torch.cat([model.eval()(part) for part in photos.split(16)]):
        rows, columns = torch.meshgrid(torch.arange(22), torch.arange(22), indexing="ij")
        centre_x = (output[1].tanh() + columns) / 22
        centre_y = (output[2].tanh() + rows) / 22
        half_w, half_h = output[3].sigmoid() / 2, output[4].sigmoid() / 2
        best, classes = output[5:].max(0)
        scores = (output[0] ** 0.6 * best**0.4).flatten()
        corners = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
        boxes = torch.stack([c.flatten() for c in corners], 1)
        keep = scores > threshold
        boxes, classes, scores = boxes[keep], classes.flatten()[keep], scores[keep]
        kept = batched_nms(boxes, scores, classes, 0.45)
        found.append((boxes[kept], classes[kept]))
    return found


def agreement(reference: Detections, found: Detections) -> float:
    """Return the F1 score of detections against others: same class, IoU of at least 0.5."""
    hits = total = 0
    for (boxes, classes), (other, labels) in zip(reference, found, strict=True):
        total += len(boxes) + len(other)
        if len(boxes) and len(other):
            overlap = box_iou(boxes, other) * (classes[:, None] == labels[None])
            rows, columns = linear_sum_assignment(-overlap.numpy())
            hits += int((overlap[rows, columns] >= 0.5).sum())
    return 2 * hits / max(1, total)
