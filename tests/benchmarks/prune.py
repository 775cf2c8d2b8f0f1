"""`prune` beside torch-pruning (the bench extra), and the speed of its own parts."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
import torch_pruning
from torch import nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from mlkit.core.accounting import count_macs, count_parameters, measure_latency, state_bytes
from mlkit.core.options import RunOptions, TrainOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.prune.backbone import choose_taps, find_backbone
from mlkit.tasks.prune.config import PlanOptions, PruneConfig
from mlkit.tasks.prune.plan import find_layers, make_plan
from mlkit.tasks.prune.repair import finetune
from mlkit.tasks.prune.surgery import apply_slices
from mlkit.tasks.prune.synthesis import make_settings, synthesise
from mlkit.tasks.prune.zoo import EMBEDDED, open_model

SHAPE = (1, 3, 224, 224)


def ours(model: nn.Module) -> nn.Module:
    """Cut half of the channels inside the blocks, kept counts rounded up to 8."""
    backbone = find_backbone(model, SHAPE[1:])
    layers = find_layers(backbone, "inner", "l1")
    plan = make_plan(backbone, layers, PlanOptions(round_to=8), "uniform")
    apply_slices(model, plan.slices)
    return model


def theirs(model: nn.Module) -> nn.Module:
    """Do the same with torch-pruning's MagnitudePruner."""
    ignored = [
        module
        for name, module in model.named_modules()
        if name in ("conv1", "fc") or name.endswith((".conv3", ".downsample.0"))
    ]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        torch.randn(SHAPE),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=ignored,
        round_to=8,
    )
    pruner.step()
    return model


def seconds(function: Any, model: nn.Module, runs: int = 3) -> tuple[float, nn.Module]:
    """Return the median seconds of `function` on fresh copies, and its last result."""
    times = []
    for _ in range(runs):
        fresh = copy.deepcopy(model)
        begin = time.perf_counter()
        result = function(fresh)
        times.append(time.perf_counter() - begin)
    return sorted(times)[runs // 2], result


def compare() -> list[dict[str, Any]]:
    """ResNet-50, half of the inner channels: cost, plan and slice time, latency in one run."""
    torch.manual_seed(0)
    model = resnet50(weights=None).eval()
    our_seconds, our_model = seconds(ours, model)
    their_seconds, their_model = seconds(theirs, model)
    models = {"original": model, "mlkit": our_model.eval(), "torch-pruning": their_model.eval()}
    latencies = measure_latency(list(models.values()), torch.randn(SHAPE))
    times = {"original": 0.0, "mlkit": our_seconds, "torch-pruning": their_seconds}
    rows = []
    for (name, network), latency in zip(models.items(), latencies, strict=True):
        rows.append(
            {
                "model": name,
                "parameters": count_parameters(network),
                "macs": count_macs(network, SHAPE),
                "bytes": state_bytes(network),
                "plan and slice s": round(times[name], 2),
                "latency ms": round(1e3 * latency.median_s, 1),
                "p10": round(1e3 * latency.p10_s, 1),
                "p90": round(1e3 * latency.p90_s, 1),
            }
        )
    return [*rows, *frozen_norms(), parts()]


def frozen_norms() -> list[dict[str, Any]]:
    """The norms of pretrained detectors: who still computes after pruning?"""
    model = resnet50(weights=None, norm_layer=FrozenBatchNorm2d).eval()
    rows = []
    for name, prune in (("mlkit", ours), ("torch-pruning", theirs)):
        try:
            pruned = prune(copy.deepcopy(model))
            with torch.no_grad():
                pruned(torch.randn(SHAPE))
            outcome = "runs"
        except RuntimeError as error:
            outcome = f"fails: {str(error).splitlines()[0][:70]}"
        rows.append({"FrozenBatchNorm2d": name, "forward after pruning": outcome})
    return rows


def parts() -> dict[str, Any]:
    """Images and steps per second of synthesis and repair on the embedded network."""
    model, recipe = open_model(EMBEDDED, None, None, None, False)
    runtime = start(RunOptions())
    settings = make_settings(PruneConfig(synthetic_images=128, iterations=40), 28)
    begin = time.perf_counter()
    images = synthesise(model, recipe.input, settings, runtime, Silent(), classes=10)
    synthesis = time.perf_counter() - begin
    backbone = find_backbone(model, (1, 28, 28))
    plan = make_plan(backbone, find_layers(backbone, "inner", "l1"), PlanOptions(), "uniform")
    pruned = copy.deepcopy(model)
    apply_slices(pruned, plan.slices)
    options = TrainOptions(steps=40, batch_size=64, lr=0.01, save_every=40)
    begin = time.perf_counter()
    taps = choose_taps(backbone, plan.removed, "block")
    finetune(backbone, pruned, taps, images, options, runtime, Silent())
    repair = time.perf_counter() - begin
    return {
        "embedded network": "parts",
        "synthesis image-iterations/s": round(128 * 40 / synthesis),
        "repair images/s": round(40 * 64 / repair),
    }
