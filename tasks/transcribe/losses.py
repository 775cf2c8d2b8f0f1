"""CTC losses: plain, generalized to doubtful tokens, its shortcut with a star, contrastive."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .lattice import NEG, Labels, occupancy


class _Exact(torch.autograd.Function):
    """A loss whose forward pass knows its gradient, one column per utterance."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, labels: Labels, native: bool) -> Tensor:
        compute = _native if native else _lattice
        loss, gradient = compute(log_probs.detach(), labels, log_probs.requires_grad)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None], None, None


def _lattice(log_probs: Tensor, labels: Labels, wanted: bool) -> tuple[Tensor, Tensor]:
    # Sums over thousands of frames lose increments in single precision, and it is no faster.
    found = occupancy(log_probs.double(), labels)
    loss = torch.where(found.total > NEG / 2, -found.total, torch.inf)
    return loss.to(log_probs.dtype), -found.gamma.to(log_probs.dtype)


def _native(log_probs: Tensor, labels: Labels, wanted: bool) -> tuple[Tensor, Tensor]:
    """Return torch's CTC loss with the gradient of what it computes.

    torch's backward returns exp(log_probs) - gamma, which is the gradient behind a log_softmax
    and wrong in front of anything else (a star column, a temperature): exp(log_probs) is taken
    off again. Int64 targets keep a GPU away from cuDNN, whose kernel differs.
    """
    with torch.enable_grad():
        leaf = log_probs.requires_grad_(wanted)
        loss = F.ctc_loss(leaf, labels.tokens, labels.frames, labels.lengths, reduction="none")
        possible = torch.isfinite(loss)
        if not wanted:
            return loss.detach(), torch.zeros(0)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    live = torch.arange(len(log_probs), device=log_probs.device)[:, None] < labels.frames
    keep = (live & possible)[..., None]
    gradient = torch.where(keep, gradient - log_probs.detach().exp(), 0.0)
    return loss.detach(), gradient


def ctc_loss(log_probs: Tensor, labels: Labels) -> Tensor:
    """Return -log P(tokens) per utterance (B,), flags unread, for log probabilities (T, B, V).

    The gradient is that of the function itself: columns need not be normalised. An utterance
    that is too short for its tokens has loss infinity and gradient 0.
    """
    if labels.tokens.shape[1] == 0:  # torch wants at least one column
        labels = Labels(
            F.pad(labels.tokens, (0, 1)), F.pad(labels.flags, (0, 1)), labels.frames, labels.lengths
        )
    return _Exact.apply(log_probs, labels, True)


def generalized_ctc_loss(log_probs: Tensor, labels: Labels) -> Tensor:
    """Return -log of the probability of all strings that the flags allow, per utterance (B,).

    P_g = sum over z in A_1 x ... x A_U of exp(sum of weights) P(z); A_u is the token itself, or
    at a flagged position every token of finite weight. Float64-exact; utterances without flags
    take torch's kernel. Infinite, with gradient 0, where no path fits the frames.
    """
    flagged = labels.flags.any(1)
    if not flagged.any():
        return ctc_loss(log_probs, labels)
    if flagged.all():
        return _Exact.apply(log_probs, labels, False)
    losses = log_probs.new_empty(len(flagged))
    for chosen, native in ((flagged, False), (~flagged, True)):
        part = labels.take(chosen)
        frames = int(part.frames.max())
        columns = log_probs[:frames, chosen]
        loss = ctc_loss(columns, part) if native else _Exact.apply(columns, part, False)
        losses = losses.masked_scatter(chosen, loss)
    return losses


def star_ctc_loss(log_probs: Tensor, labels: Labels, mean: bool = False) -> Tensor:
    """Return the approximate generalized loss: one native call with a star for flagged tokens.

    The star is log sum_{v > 0} exp(log_probs_v), less log(V - 1) with `mean` (as OTC does). It
    may swallow several tokens, and counts some paths twice: the loss can be negative. Adjacent
    stars alternate between two equal columns, or they would need a blank between them.
    """
    vocabulary = log_probs.shape[2]
    star = log_probs[..., 1:].logsumexp(2, keepdim=True)
    if mean:
        star = star - torch.tensor(vocabulary - 1.0).log()
    columns = torch.cat((log_probs, star, star), 2)
    places = torch.arange(labels.tokens.shape[1], device=log_probs.device)
    tokens = torch.where(labels.flags, vocabulary + places % 2, labels.tokens)
    return ctc_loss(columns, Labels(tokens, labels.flags, labels.frames, labels.lengths))


def contrastive_loss(right: Tensor, wrong: Tensor) -> Tensor:
    """Return -log(P(y) / (P(y) + sum P(h))) per utterance from CTC losses.

    `right` (B,) are the losses of the references, `wrong` (B, N) those of wrong hypotheses;
    infinity marks one that is absent. 0 without any; softplus(right - wrong) for one.
    """
    absent = ~torch.isfinite(wrong)
    scores = torch.cat((-right[:, None], -wrong.masked_fill(absent, -NEG)), 1)
    return scores.logsumexp(1) + right


def token_contrastive_loss(log_probs: Tensor, labels: Labels) -> Tensor:
    """Return -sum_u log c_u(y) per utterance: every token against all its single substitutions.

    c_u = P(y) / P_g(y, only u flagged), so each term is L(y) - L_g(flag u).
    """
    rows, places = live_positions(labels)
    singles = single_flags(labels, rows, places)
    plain = ctc_loss(log_probs, labels)
    terms = plain[rows] - generalized_ctc_loss(log_probs[:, rows], singles)
    return torch.zeros_like(plain).index_add(0, rows, terms)


def live_positions(labels: Labels) -> tuple[Tensor, Tensor]:
    """Return the utterance and the place of every token of a batch, (N,) each."""
    places = torch.arange(labels.tokens.shape[1], device=labels.tokens.device)
    rows, columns = (places < labels.lengths[:, None]).nonzero(as_tuple=True)
    return rows, columns


def single_flags(labels: Labels, rows: Tensor, places: Tensor) -> Labels:
    """Return one copy of an utterance for each (row, place), flagged at that place alone."""
    flags = torch.zeros(len(rows), labels.tokens.shape[1], dtype=torch.bool, device=rows.device)
    flags[torch.arange(len(rows), device=rows.device), places] = True
    return Labels(labels.tokens[rows], flags, labels.frames[rows], labels.lengths[rows])
