"""The objective: sampled softmax over one chosen interest, and options against collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.training import Objective
from .config import LossOptions
from .model import Recommender
from .sampling import Batch


def sampled_softmax(
    target_logits: Tensor,
    negative_logits: Tensor,
    targets: Tensor,
    negatives: Tensor,
    target_log_counts: Tensor,
    negative_log_counts: Tensor,
    hardness: float = 0.0,
) -> Tensor:
    """Return -log softmax of the target among itself and the negatives, mean over rows.

    `target_logits` (B,), `negative_logits` (B, m), each less its log expected count; negatives
    that are the row's own target do not count. With `hardness` b > 0 the negatives are weighted
    by exp(b o) with mean one (Robinson et al., ICLR 2021; REMI's interest-aware negatives).
    """
    positive = target_logits - target_log_counts
    others = negative_logits - negative_log_counts
    others = others.masked_fill(negatives == targets[:, None], -torch.inf)
    if hardness:
        tilt = hardness * negative_logits.detach()
        size = torch.isfinite(others).sum(1, keepdim=True).log()
        others = others + tilt.masked_fill(others == -torch.inf, -torch.inf).log_softmax(1) + size
    # Nothing is added where a row has no other negative: logaddexp of minus infinity is neutral.
    return (torch.logaddexp(positive, others.logsumexp(1)) - positive).mean()


def choose_interest(interests: Tensor, target_vectors: Tensor) -> Tensor:
    """Return for each row of (B, K, d) the interest nearest to its target (B, d): (B, 1, d).

    The paper's equation 8; no gradient through the choice.
    """
    scores = torch.einsum("bkd,bd->bk", interests.detach(), target_vectors.detach())
    rows = torch.arange(len(interests), device=interests.device)
    return interests[rows, scores.argmax(1)][:, None]


def soft_interest(interests: Tensor, target_vectors: Tensor, power: float) -> Tensor:
    """Return MIND's label-aware mixture: softmax(power * V e) over the interests: (B, 1, d)."""
    scores = torch.einsum("bkd,bd->bk", interests, target_vectors)
    return torch.einsum("bk,bkd->bd", (power * scores).softmax(1), interests)[:, None]


def mean_cosine(interests: Tensor, power: int = 1) -> Tensor:
    """Return the mean cosine^power over pairs of each row's interests (B, K, d): (B,); K > 1."""
    count = interests.shape[1]
    unit = F.normalize(interests, dim=2)
    cosines = (unit @ unit.transpose(1, 2)) ** power
    pairs = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)
    return pairs / (count * (count - 1))


def interest_logits(interests: Tensor, vectors: Tensor) -> Tensor:
    """Return max_k V_k . e over interests (B, K, d) for vectors (m, d): (B, m)."""
    batch, count, dim = interests.shape
    return (interests.reshape(-1, dim) @ vectors.T).view(batch, count, -1).amax(1)


class NextItem(Objective):
    """Predicts the item after a history (section 3.4 of the paper).

    `readout` says which vector meets target and negatives: the interest nearest to the target
    ("hard", the paper's), MIND's mixture ("soft"), or for every item its own best interest, as
    retrieval does ("max").
    """

    model: Recommender

    def __init__(self, model: Recommender, options: LossOptions) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch."""
        # One look-up for all: its backward pass fills a gradient as large as the table.
        ids = torch.cat((batch.histories.flatten(), batch.targets, batch.negatives))
        sizes = [batch.histories.numel(), len(batch.targets), len(batch.negatives)]
        past, targets, negatives = self.model.table(ids).split(sizes)
        past = past.view(*batch.histories.shape, -1)
        interests = self.model.encode(past, batch.histories)
        losses = {"loss": self._prediction(interests, targets, negatives, batch)}
        if interests.shape[1] > 1:
            losses["cosine"] = mean_cosine(interests.detach()).mean()
            if self.options.collapse_weight:
                penalty = self.options.collapse_weight * mean_cosine(interests, 2).mean()
                losses["loss"] = losses["loss"] + penalty
        return losses

    def _prediction(
        self, interests: Tensor, targets: Tensor, negatives: Tensor, batch: Batch
    ) -> Tensor:
        """Return the loss of interests (B, K, d) on target vectors (B, d) and negatives (m, d)."""
        if self.options.readout == "soft":
            interests = soft_interest(interests, targets, self.options.readout_power)
        elif self.options.readout == "hard":
            interests = choose_interest(interests, targets)
        if self.options.loss == "full":
            logits = interest_logits(interests, self.model.table.weight[1:])
            return F.cross_entropy(logits, batch.targets - 1)
        return sampled_softmax(
            torch.einsum("bkd,bd->bk", interests, targets).amax(1),
            interest_logits(interests, negatives),
            batch.targets,
            batch.negatives,
            batch.target_log_counts,
            batch.negative_log_counts,
            self.options.hard_negatives,
        )
