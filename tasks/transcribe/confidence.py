"""How sure a model is of each token it wrote: statistics of runs, and the posterior scan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .greedy import Decoded
from .lattice import NEG, Labels, both_ways


def posterior_confidence(log_probs: Tensor, labels: Labels) -> Tensor:
    """Return c_u = P(y) / P_g(y with only u flagged), in (0, 1], as (B, U); flags are unread.

    How much of the probability of some token in this place goes to the one that stands there.
    One scan for all places: from the plain forward variables every token may enter place u,
    stay, and leave into the plain backward variables. Places after the end get 1, an utterance
    without any path 0.
    """
    dtype, log_probs = log_probs.dtype, log_probs.double()
    plain = Labels(labels.tokens, torch.zeros_like(labels.flags), labels.frames, labels.lengths)
    scan, back, _ = both_ways(log_probs, plain)
    total, batch, _ = log_probs.shape
    width = labels.tokens.shape[1]
    places = torch.arange(width, device=log_probs.device)
    live = places < labels.lengths[:, None]
    log_p = scan.total()[:batch]
    # Before each frame: blank u-1 and position u-1 (a NEG column for the first place).
    blank_in, token_in = (
        scan.states[:-1, :batch, first : first + 2 * width : 2] for first in (2, 1)
    )
    # After each frame: blank u and position u+1, their own emission included; nothing but the
    # end follows the last frame, and position U+1 does not exist.
    after = torch.cat((back[1:], torch.full_like(back[:1], NEG)))
    blank_out = after[..., 2::2]
    token_out = torch.cat((after[..., 3::2], torch.full_like(after[..., :1], NEG)), 2)
    token_out = token_out.masked_fill(places >= labels.lengths[:, None] - 1, NEG)
    final = torch.arange(total, device=log_probs.device)[:, None] == labels.frames - 1
    dead = torch.arange(total, device=log_probs.device)[:, None] >= labels.frames - 1
    blank_out = blank_out.masked_fill(dead[..., None], NEG)
    token_out = token_out.masked_fill(dead[..., None], NEG)
    blank_out = blank_out.masked_fill(
        final[..., None] & (places == labels.lengths[:, None] - 1), 0.0
    )
    vocabulary = torch.arange(1, log_probs.shape[2], device=log_probs.device)
    before = torch.cat((torch.zeros_like(labels.tokens[:, :1]), labels.tokens[:, :-1]), 1)
    behind = torch.cat((labels.tokens[:, 1:], torch.zeros_like(labels.tokens[:, :1])), 1)
    no_entry, no_exit = (vocabulary == other[..., None] for other in (before, behind))
    inside = log_probs.new_full((batch, width, len(vocabulary)), NEG)
    mass = log_probs.new_full((batch, width), NEG)
    for t in range(total):
        entry = _unless(no_entry, blank_in[t], token_in[t])
        inside = torch.logaddexp(inside, entry) + log_probs[t, :, None, 1:]
        leaving = (inside + _unless(no_exit, blank_out[t], token_out[t])).logsumexp(2)
        mass = torch.logaddexp(mass, leaving)
    confidence = (log_p[:, None] - mass).exp().clamp_max(1.0)
    confidence = torch.where(log_p[:, None] > NEG / 2, confidence, 0.0)
    return torch.where(live, confidence, 1.0).to(dtype)


def _unless(forbidden: Tensor, always: Tensor, sometimes: Tensor) -> Tensor:
    """Return (B, U, V-1): `always`, with `sometimes` added where it is not forbidden."""
    both = torch.logaddexp(always, sometimes)
    return torch.where(forbidden, always[..., None], both[..., None])


def second_opinions(
    passes: int, run: Callable[[], tuple[Tensor, Tensor]], decoded: Decoded
) -> Tensor:
    """Return the mean posterior (B, U) of decoded tokens over further passes of a model.

    `run()` gives log probabilities and frame counts of one pass: with augmentation and dropout,
    or of another model. A token that holds only for one look at the audio loses confidence.
    """
    total = torch.zeros_like(decoded.runs["max"])
    for _ in range(passes):
        log_probs, frames = run()
        labels = decoded.labels(torch.zeros_like(decoded.live), frames)
        total += posterior_confidence(log_probs, labels)
    return total / passes


def auroc(scores: Tensor, correct: Tensor) -> float:
    """Return the probability that a correct token has a higher score than a wrong one (ties half).

    NaN when one kind is missing.
    """
    good, bad = int(correct.sum()), int((~correct).sum())
    if not good or not bad:
        return float("nan")
    values, inverse = scores.double().unique(return_inverse=True)
    counts = torch.bincount(inverse, minlength=len(values)).double()
    ranks = counts.cumsum(0) - (counts - 1) / 2
    return float((ranks[inverse][correct].sum() - good * (good + 1) / 2) / (good * bad))
