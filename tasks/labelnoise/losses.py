"""MixMatch as DivideMix uses it: sharpening, mixing, and the loss of a mixed batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T) / sum (N, K): T = 1 changes nothing, T -> 0 gives one-hot."""
    # In logarithms, so that a small temperature does not underflow.
    return (probs.clamp_min(1e-12).log() / temperature).softmax(1)


def refine(probs: Tensor, labels: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return targets (N, K): label and prediction mixed by the weight (N,) of being clean."""
    given = F.one_hot(labels, probs.shape[1]).to(probs)
    return sharpen(weight[:, None] * given + (1 - weight[:, None]) * probs, temperature)


def mix(inputs: Tensor, targets: Tensor, order: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return mixed inputs and targets: `share` >= 1/2 of each row, the rest of row `order`."""
    other = inputs[order], targets[order]
    return share * inputs + (1 - share) * other[0], share * targets + (1 - share) * other[1]


def ramp_up(epoch: float, start: float, length: float) -> float:
    """Return how far the weight of guessed labels has risen at (fractional) `epoch`: 0..1."""
    return min(1.0, max(0.0, (epoch - start) / length))


@dataclass(frozen=True)
class SemiLoss:
    """L = L_x + lambda L_u + penalty (section 3.6 of Li et al. 2020)."""

    labelled: Tensor
    guessed: Tensor
    penalty: Tensor

    def total(self, lambda_u: float) -> Tensor:
        """Return the sum with the weight `lambda_u` on guessed labels."""
        return self.labelled + lambda_u * self.guessed + self.penalty


def semi_loss(logits: Tensor, targets: Tensor, labelled: int, prior: Tensor) -> SemiLoss:
    """Return the parts of the loss of mixed rows (N, K), the first `labelled` of which have labels.

    L_x is cross-entropy, L_u the mean squared error of probabilities, the penalty
    sum_k prior_k log(prior_k / mean prediction_k) keeps the predictions near `prior` (K,).
    """
    logs = logits.float().log_softmax(1)
    probs = logs.exp()
    cross = -(targets[:labelled] * logs[:labelled]).sum(1).mean()
    rest = probs[labelled:] - targets[labelled:]
    square = rest.square().mean() if len(rest) else logits.new_zeros(())
    mean = probs.mean(0).clamp_min(1e-12)
    penalty = (prior * (prior.clamp_min(1e-12).log() - mean.log())).sum()
    return SemiLoss(cross, square, penalty)
