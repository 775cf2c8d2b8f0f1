"""Several scores of a class as one: per photo each is standardised, then they are mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from .metrics import ranks

PARTS = ("graph", "ancestor", "conse")
EQUAL = {part: 1 / len(PARTS) for part in PARTS}
STEPS = 10  # the grid of mixing weights has steps of a tenth


def standardise(scores: Tensor) -> Tensor:
    """Return scores (n, R) with mean 0 and deviation 1 over the candidates of each photo."""
    centred = scores - scores.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def mix(scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum (n, R) of standardised scores."""
    return torch.stack([w * standardise(scores[p]) for p, w in weights.items() if w]).sum(0)


def grid(parts: Sequence[str] = PARTS) -> Iterator[dict[str, float]]:
    """Yield all weights in steps of a tenth that sum to 1."""
    for counts in product(range(STEPS + 1), repeat=len(parts)):
        if sum(counts) == STEPS:
            yield {part: count / STEPS for part, count in zip(parts, counts, strict=True)}


def choose_weights(scores: Mapping[str, Tensor], truth: Tensor) -> dict[str, float]:
    """Return the weights that are best on validation photos: the mean of hit@1 and hit@5.

    `scores` are (n, R) per part, `truth` (n,) int64. The middle of all best ones is taken, so
    that few photos do not decide for a corner.
    """
    found: dict[tuple[float, ...], float] = {}
    for weights in grid(tuple(scores)):
        rank = ranks(mix(scores, weights), truth)
        value = float(((rank <= 1).double() + (rank <= 5).double()).mean())
        found[tuple(weights.values())] = value
    best = max(found.values())
    top = torch.tensor([key for key, value in found.items() if value == best]).mean(0)
    return dict(zip(scores, top.tolist(), strict=True))


def choose_penalty(scores: Tensor, truth: Tensor, seen: Tensor) -> float:
    """Return the penalty on seen candidates with the best harmonic mean of the two accuracies.

    `scores` (n, R) are standardised, `truth` (n,), `seen` (R,) bool. The accuracies are hit@1 of
    photos of seen and of unseen classes, all candidates competing (Xian et al. 2018).
    """
    is_seen = seen[truth]
    if not is_seen.any() or is_seen.all():
        return 0.0
    best, chosen = -1.0, 0.0
    for penalty in torch.linspace(0, 4, 41).tolist():
        right = (ranks(scores - penalty * seen, truth) == 1).double()
        a, b = float(right[is_seen].mean()), float(right[~is_seen].mean())
        mean = 2 * a * b / max(1e-12, a + b)
        if mean > best:
            best, chosen = mean, penalty
    return chosen
