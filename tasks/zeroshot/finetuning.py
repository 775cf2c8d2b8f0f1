"""Fine-tuning the features: the predicted rows stay, the network before them follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import functional as tvf

from ...core.augment import mirrored
from ...core.errors import DataError, UsageError
from ...core.inputs import InputSpec
from ...core.media import read_image
from ...core.options import RunOptions, TrainOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Objective, Run, fit
from .backbone import Backbone, append_one
from .checkpoint import Trained, open_trained, save_model
from .config import FinetuneConfig, FinetuneTraining
from .data import Photos, open_photos

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop


class FixedRows(Objective):
    """Cross-entropy of features against fixed rows: only the features learn."""

    def __init__(self, features: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.model = features
        self.register_buffer("rows", rows)

    rows: Tensor

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the losses of inputs (N, C, H, W) and labels (N,): places in `rows`."""
        inputs, labels = batch
        logits = append_one(self.model(inputs)) @ self.rows.T
        hits = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": hits}


@dataclass(frozen=True)
class Crops:
    """Photos with places of their classes among the rows, cropped and mirrored at random."""

    photos: Photos
    labels: Tensor
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs (n, C, size, size) and labels (n,)."""
        crops = [self._crop(i, generator) for i in indices.tolist()]
        images = mirrored(torch.stack(crops), generator)
        return self.spec.normalise(images), self.labels[indices]

    def _crop(self, place: int, generator: torch.Generator) -> Tensor:
        """Cut a part of random area and shape, and scale it to the input's size."""
        path = self.photos.paths[place]
        mode = "L" if self.spec.channels == 1 else "RGB"
        levels = torch.from_numpy(np.array(read_image(path, mode)))
        image = levels.reshape(*levels.shape[:2], -1).permute(2, 0, 1)
        height, width = image.shape[1:]
        draws = torch.rand(4, generator=generator).tolist()
        area = height * width * (AREA[0] + draws[0] * (AREA[1] - AREA[0]))
        ratio = math.exp(math.log(RATIO[0]) + draws[1] * (math.log(RATIO[1]) - math.log(RATIO[0])))
        h = min(height, max(1, round(math.sqrt(area / ratio))))
        w = min(width, max(1, round(math.sqrt(area * ratio))))
        top, left = int(draws[2] * (height - h + 1)), int(draws[3] * (width - w + 1))
        size = [self.spec.size, self.spec.size]
        return tvf.resized_crop(image, top, left, h, w, size, antialias=True).float() / 255


def fit_features(
    trained: Trained, photos: Photos, training: TrainOptions, only: str, runtime: Runtime,
    **engine: Any,
) -> tuple[Backbone, Fitted]:  # fmt: skip
    """Return the classifier with features fitted to the predicted rows of the seen classes.

    Raises `DataError` for photos of classes that are not seen, `UsageError` when no parameter's
    name begins with `only`.
    """
    graph, backbone = trained.graph, trained.backbone
    place = {int(node): i for i, node in enumerate(graph.seen)}
    strange = [i for i, node in enumerate(photos.nodes.tolist()) if node not in place]
    if strange:
        name = graph.taxonomy.title(int(photos.nodes[strange[0]]))
        raise DataError(
            f"{photos.paths[strange[0]]} shows '{name}', which is not a seen class",
            "fine-tune on photos of the classifier's own classes",
        )
    chosen = [(n, p) for n, p in backbone.features.named_parameters() if n.startswith(only)]
    if not chosen:
        raise UsageError(f"--only {only}: no parameter begins so", "for instance features.15")
    for name, parameter in backbone.features.named_parameters():
        parameter.requires_grad_(name.startswith(only))
    rows = trained.predict(graph.seen)
    objective = FixedRows(backbone.features.train(), rows)
    labels = torch.tensor([place[node] for node in photos.nodes.tolist()])
    source = Crops(photos, labels, backbone.recipe.input)
    fitted = fit(objective, source, training, runtime, method="zeroshot", **engine)
    return replace(backbone, features=backbone.features.cpu().eval(), own_weights=True), fitted


def finetune(
    config: FinetuneConfig,
    training: FinetuneTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Fit the features to the predicted rows, which stay; leaves `best.safetensors` in a folder."""
    progress = progress or Silent()
    training = training or FinetuneTraining()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume)
    trained = open_trained(config.weights, config.factory)
    photos = open_photos(config.data, trained.graph.taxonomy)
    settings = run.record("train zeroshot-finetune", runtime, config, training)

    def save_best(features: nn.Module, entry: dict[str, float]) -> None:
        backbone = replace(trained.backbone, features=features, own_weights=True)
        content = {**trained.content, "finetuned": config.to_dict(), "metrics": entry}
        save_model(run.best, replace(trained, backbone=backbone, content=content))

    _, fitted = fit_features(
        trained, photos, training, config.only, runtime,
        run=run, save_best=save_best, progress=progress, title="fitting features",
    )  # fmt: skip
    first, last = fitted.history[0], fitted.history[-1]
    rows = [(str(e["step"]), f"{e['loss']:.4f}", f"{e['accuracy']:.3f}") for e in (first, last)]
    result = Result(
        inputs={"data": str(config.data), "photos": len(photos)},
        outputs={"run": str(run.folder), "weights": str(run.best)},
        metrics={"steps": fitted.steps, "first_loss": first["loss"], "last_loss": last["loss"]},
        tables=(Table("Seen photos", ("step", "loss", "accuracy"), rows),),
        notes=(f"Next: mlkit eval zeroshot DATA --weights {run.best}",),
    )
    if runtime.is_main:
        write_report(
            run.folder / "report.html",
            "mlkit train zeroshot-finetune",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result
