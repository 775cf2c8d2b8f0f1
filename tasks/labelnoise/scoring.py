"""Short trainings of one network with plain cross-entropy, and the passes that give P and Z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.augment import mirrored, shifted
from ...core.options import TrainOptions
from ...core.progress import Progress
from ...core.runtime import Runtime, stream
from ...core.training import Objective, fit
from .data import Images, normalise
from .model import BUILDERS, Network

Array = NDArray[Any]
EVAL_BATCH = 512
FOLDS_STREAM = 11  # key of the random split into folds


class CrossEntropy(Objective):
    """Plain training on all labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the loss on levels (N, 3, H, W) uint8 and labels (N,)."""
        levels, labels = batch
        return {"loss": F.cross_entropy(self.model(normalise(levels)).float(), labels)}


def augmented(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 levels shifted by up to an eighth of their size (zeros outside) and mirrored."""
    most = max(1, levels.shape[3] // 8)
    return mirrored(shifted(levels, most, generator, "zero"), generator)


@dataclass(frozen=True)
class Augmented:
    """Batches of (levels uint8, labels), each image augmented once."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return levels (n, 3, S, S) uint8 and labels (n,)."""
        return augmented(self.images.levels[indices], generator), self.images.labels[indices]


def train_plain(
    images: Images,
    name: str,
    options: TrainOptions,
    runtime: Runtime,
    progress: Progress,
    title: str = "training",
) -> Network:
    """Train one network on all labels and return it as it is at the end, in eval mode."""
    torch.manual_seed(runtime.seed)
    model = BUILDERS[name](len(images.classes))
    # The last weights, not those of the lowest loss: one checkpoint, at the end.
    steps = options.steps or options.epochs * max(1, len(images) // options.batch_size)
    options = options.model_copy(update={"save_every": steps})
    fit(
        CrossEntropy(model),
        Augmented(images),
        options,
        runtime,
        method="labelnoise",
        progress=progress,
        title=title,
    )
    return model.eval()


@torch.inference_mode()
def scores(model: Network, levels: Tensor, runtime: Runtime) -> tuple[Array, Array]:
    """Return probabilities (N, K) float32 and features (N, d) float16 in one pass, eval mode."""
    training = model.training
    model.eval()
    probs, features = [], []
    for part in levels.split(EVAL_BATCH):
        with runtime.autocast():
            found = model.features(normalise(part.to(runtime.device)))
            logits = model.head(found)
        probs.append(logits.float().softmax(1).cpu())
        features.append(found.half().cpu())
    model.train(training)
    return torch.cat(probs).numpy(), torch.cat(features).numpy()


def fold_numbers(labels: Tensor, folds: int, seed: int) -> Array:
    """Return the fold (N,) of every sample; each class is spread evenly, at random."""
    order = torch.randperm(len(labels), generator=stream(seed, FOLDS_STREAM))
    by_class = order[labels[order].argsort(stable=True)]
    numbers = torch.empty(len(labels), dtype=torch.int64)
    numbers[by_class] = torch.arange(len(labels)) % folds
    return numbers.numpy()


def out_of_sample(
    images: Images,
    name: str,
    folds: int,
    options: TrainOptions,
    runtime: Runtime,
    progress: Progress,
) -> tuple[Array, Array, Array]:
    """Return probabilities, features and folds; no network has seen the samples it judges."""
    numbers = fold_numbers(images.labels, folds, runtime.seed)
    parts = []
    for fold in range(folds):
        inside = torch.from_numpy(np.flatnonzero(numbers != fold))
        outside = np.flatnonzero(numbers == fold)
        title = f"network {fold + 1} of {folds}"
        model = train_plain(images.take(inside), name, options, runtime, progress, title)
        held_out = images.levels[torch.from_numpy(outside)]
        parts.append((outside, *scores(model, held_out, runtime)))
    places = np.concatenate([part[0] for part in parts])
    back = places.argsort()
    probs, features = (np.concatenate([part[k] for part in parts])[back] for k in (1, 2))
    return probs, features, numbers
