"""The four objectives over the clips of a video, and what tells a collapse.

Embeddings are (B, d) float tensors; functions normalise what they get. `ids` (B,) int64 names the
video of each row: a video is never a negative of itself, wherever it turns up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Positives = Literal["separate", "joint"]
NEVER = -1e9  # a logit that counts for nothing, yet has a gradient where all others do not count


def moco(
    query: Tensor,
    keys: Sequence[Tensor],
    queue: Tensor,
    same: Tensor,
    temperature: float = 0.1,
    positives: Positives = "separate",
) -> Tensor:
    """Return the contrast of a query clip (B, d) to its positive `keys` and a `queue` (K, d).

    `same` (B, K) is True where an entry of the queue shows the query's own video, or is none.
    "joint" is the paper's eq. 1, one sum over the positives in the numerator; "separate" is the
    official code's mean of one cross-entropy per positive. With one key they agree.
    """
    query = F.normalize(query, dim=1)
    logits = (query @ F.normalize(queue, dim=1).T / temperature).masked_fill(same, NEVER)
    right = torch.stack([(query * F.normalize(key, dim=1)).sum(1) for key in keys], 1) / temperature
    if positives == "joint":
        every = torch.cat((right, logits), 1)
        return (every.logsumexp(1) - right.logsumexp(1)).mean()
    rest = torch.cat((torch.full_like(right[:, :1], NEVER), logits), 1).logsumexp(1, keepdim=True)
    return (torch.logaddexp(right, rest) - right).mean()


def byol(prediction: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Return minus twice the mean cosine of a prediction (B, d) and its targets, in [-2, 2].

    Plus 2 it is the squared distance of the normalised vectors.
    """
    cosines = [F.cosine_similarity(prediction, target, dim=1).mean() for target in targets]
    return -2 * torch.stack(cosines).mean()


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float = 0.1,
    ids: Tensor | None = None,
    every: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Return SimCLR's cross-entropy over the 2B embeddings of two clips, (B, d) each.

    `every` holds the embeddings of both clips and the ids of all processes, in which the rows
    of this one stand somewhere; without it this process is alone. `ids` default to B videos.
    """
    ids = torch.arange(len(first), device=first.device) if ids is None else ids
    others = every or (first, second, ids)
    one, two = F.normalize(first, dim=1), F.normalize(second, dim=1)
    columns = torch.cat([F.normalize(part, dim=1) for part in others[:2]])
    same = ids[:, None] == torch.cat((others[2], others[2]))[None]
    right = (one * two).sum(1) / temperature
    losses = []
    for rows in (one, two):
        # The positive is added back on its own: all else of the own video is left out.
        wrong = (rows @ columns.T / temperature).masked_fill(same, -math.inf)
        logits = torch.cat((right[:, None], wrong), 1)
        losses.append(logits.logsumexp(1) - right)
    return torch.stack(losses).mean()


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Return soft codes (B, C), rows that sum to 1, spread evenly over the C prototypes.

    Entropic optimal transport between B samples and C prototypes of equal mass by Sinkhorn's
    iterations, ended on the samples' side. Done with logarithms: no overflow for any epsilon.
    """
    plan = (scores / epsilon).double()
    for _ in range(iterations):
        plan = plan - plan.logsumexp(0, keepdim=True) - math.log(plan.shape[1])
        plan = plan - plan.logsumexp(1, keepdim=True) - math.log(plan.shape[0])
    return plan.softmax(1).to(scores.dtype)


def swav(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Return the cross-entropy of the `codes` of some clips in what all other clips predict.

    `scores` are the prototype scores (B, C) of each clip, `codes` (B, C) those of the first few.
    """
    log_probs = [(score / temperature).log_softmax(1) for score in scores]
    losses = [
        -(code * log_probs[j]).sum(1).mean()
        for i, code in enumerate(codes)
        for j in range(len(scores))
        if j != i
    ]
    return torch.stack(losses).mean()


def spread(embeddings: Tensor) -> Tensor:
    """Return the mean standard deviation per dimension of normalised embeddings (B, d).

    About 1/sqrt(d) where they fill the sphere, 0 where all are the same.
    """
    return F.normalize(embeddings, dim=1).std(0, unbiased=False).mean()


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance of positives (B, d), normalised: Wang, Isola 2020."""
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean()


def uniformity(embeddings: Tensor, t: float = 2.0) -> Tensor:
    """Return log E exp(-t |x - y|^2) over pairs of normalised embeddings; 0 when collapsed."""
    distances = torch.pdist(F.normalize(embeddings, dim=1).float())
    return (-t * distances.square()).exp().mean().log()
