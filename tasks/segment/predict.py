"""From a photograph and sentences to probabilities at the photograph's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ...core.runtime import Runtime
from .checkpoint import Trained
from .masks import Letterbox

SENTENCES = 16  # at a time, for one photograph


@torch.no_grad()
def probabilities(
    trained: Trained, square: Tensor, box: Letterbox, texts: Sequence[str], runtime: Runtime
) -> list[NDArray[np.float32]]:
    """Return one map (height, width) in [0, 1] per sentence; the photograph is encoded once.

    `square` is the photograph as (3, S, S) uint8. The logits are enlarged, not the mask, so
    that its border does not move.
    """
    model, found = trained.model, []
    tokens = trained.vocabulary.encode(texts).to(trained.device)
    with runtime.autocast():
        features = model.features(square[None].to(trained.device).float() / 255)
        for part in tokens.split(SENTENCES):
            owner = torch.zeros(len(part), dtype=torch.int64, device=part.device)
            logits = model.enlarge(model.refer(features, part, owner)).float().cpu()
            found += [torch.sigmoid(_to_photograph(one, box)).numpy() for one in logits]
    return found


def _to_photograph(logits: Tensor, box: Letterbox) -> Tensor:
    """Return logits (height, width) from those of the square (S, S)."""
    inner = torch.from_numpy(box.crop(logits.numpy()).copy())
    size = (box.height, box.width)
    return interpolate(inner[None, None], size, mode="bilinear")[0, 0]
