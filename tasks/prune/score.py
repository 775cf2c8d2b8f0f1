"""Scoring models: top-1 and top-5, or COCO's average precision; several models in one table."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.accounting import count_parameters
from ...core.errors import DataError, MissingExtraError, UsageError
from ...core.inputs import InputSpec
from ...core.media import read_image
from ...core.metrics import Proportion, correct_in_top_k
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result, Table, human_count
from ...core.runtime import Runtime, start
from ...core.zoo import import_factory
from .checkpoint import load
from .config import EvalConfig
from .data import Labelled, embedded_test_images, open_labelled


def accuracy(
    model: nn.Module, data: Labelled, spec: InputSpec, runtime: Runtime, batch_size: int = 128
) -> dict[str, Proportion]:
    """Return top-1 and top-5 accuracy with intervals. The model must be in eval mode.

    Raises `DataError` when the labels do not fit the head.
    """
    hits = {1: 0, 5: 0}
    with torch.no_grad():
        for inputs, labels in data.batches(spec, batch_size):
            with runtime.autocast():
                logits: Tensor = model(inputs.to(runtime.device)).float().cpu()
            if logits.shape[1] < len(data.classes):
                raise DataError(
                    f"the images have {len(data.classes)} classes, the model {logits.shape[1]}",
                    "evaluate on the classes that the model was trained for",
                )
            for k in hits:
                hits[k] += correct_in_top_k(logits, labels, k)
    return {f"top{k}": Proportion(count, len(data)) for k, count in hits.items()}


def evaluate(
    config: EvalConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Score every file of `config.weights` on the same images.

    Raises `DataError` when images or annotations cannot be used.
    """
    progress = progress or Silent()
    runtime = start(run_options or RunOptions())
    factory = import_factory(config.factory) if config.factory else None
    task = config.task or ("detection" if config.annotations else "classification")
    if task != "classification" and (config.annotations is None or config.data is None):
        raise UsageError(f"--task {task} needs DATA and --annotations FILE.json")
    scores: dict[str, Any] = {}
    rows = []
    with progress.task("scoring", len(config.weights)) as bar:
        for path in config.weights:
            model, recipe = load(path, factory=factory, with_recipe=True)
            model.to(runtime.device)
            if task == "classification":
                found = accuracy(model, _labelled(config), recipe.input, runtime, config.batch_size)
                scores[str(path)] = {
                    k: {"value": p.value, "interval": list(p.interval), "images": p.total}
                    for k, p in found.items()
                }
                cells = [str(p) for p in found.values()]
            else:
                scores[str(path)] = average_precision(model, config, task, runtime)
                cells = [f"{scores[str(path)][name]:.4f}" for name in ("AP", "AP50")]
            rows.append((str(path), human_count(count_parameters(model)), *cells))
            bar.advance()
    heads = ("top-1", "top-5") if task == "classification" else ("AP", "AP50")
    return Result(
        inputs={"data": str(config.data or "embedded"), "task": task},
        metrics=scores,
        tables=(Table("Scores", ("model", "parameters", *heads), rows),),
    )


def _labelled(config: EvalConfig) -> Labelled:
    if config.data is None:
        return embedded_test_images().first(config.limit)
    return open_labelled(config.data, config.labels).first(config.limit)


def average_precision(
    model: nn.Module, config: EvalConfig, task: str, runtime: Runtime
) -> dict[str, float]:
    """Return COCO's AP, AP50 and AP75 of a torchvision detector (boxes, or OKS of key points).

    Needs the extra `coco`. Raises `DataError` for unusable annotations.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("pycocotools", "coco") from error
    assert config.annotations is not None
    assert config.data is not None
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        try:
            truth = COCO(str(config.annotations))
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AssertionError) as error:
            raise DataError(f"{config.annotations} is not a COCO file: {error}") from error
        identifiers = sorted(truth.getImgIds())[: config.limit or None]
        if not identifiers:
            raise DataError(f"{config.annotations} is not a COCO file: it lists no images")
        results: list[dict[str, Any]] = []
        for image_id in identifiers:
            path = config.data / truth.loadImgs([image_id])[0]["file_name"]
            results += _coco_results(model, path, image_id, task, runtime)
        if not results:
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        kind = "keypoints" if task == "keypoints" else "bbox"
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.params.imgIds = identifiers
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(("AP", "AP50", "AP75"), map(float, judge.stats[:3]), strict=True))


@torch.no_grad()
def _coco_results(
    model: nn.Module, path: Path, image_id: int, task: str, runtime: Runtime
) -> Sequence[dict[str, Any]]:
    """Run a torchvision detector on one photograph and return COCO result entries."""
    import numpy as np

    pixels = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1) / 255
    found = model([pixels.to(runtime.device)])[0]
    boxes = found["boxes"].cpu()
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)  # corners -> corner, size
    entries = []
    for i, score in enumerate(found["scores"].tolist()):
        entry = {
            "image_id": image_id,
            "category_id": int(found["labels"][i]),
            "score": score,
            "bbox": boxes[i].tolist(),
        }
        if task == "keypoints":
            entry["keypoints"] = found["keypoints"][i].flatten().tolist()
        entries.append(entry)
    return entries
