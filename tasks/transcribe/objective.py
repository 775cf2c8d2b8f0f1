"""What training minimises: CTC on transcripts, and the generalized loss on pseudo-labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.training import Objective
from .acceptor import doubtful_loss
from .config import MethodOptions
from .data import Mixed, Speech
from .doubt import Doubt, correctness
from .greedy import Decoded, greedy, utterance_confidence
from .lattice import Labels
from .losses import contrastive_loss, ctc_loss, star_ctc_loss, token_contrastive_loss
from .model import Acoustic


def transcript(speech: Speech, frames: Tensor) -> Labels:
    """Return the transcripts of a batch as labels without flags."""
    lengths = speech.lengths.clamp_min(0)
    flags = torch.zeros_like(speech.tokens, dtype=torch.bool)
    return Labels(speech.tokens, flags, frames, lengths)


def mean_of_finite(losses: Tensor) -> Tensor:
    """Return the mean over the utterances whose tokens fit their frames; 0 without any."""
    possible = torch.isfinite(losses)
    return losses.masked_fill(~possible, 0.0).sum() / possible.sum().clamp_min(1)


class Supervised(Objective):
    """CTC with the contrastive loss, which waits for the first third of `steps`.

    Each step is cut into `parts` calls.
    """

    model: Acoustic
    calls: Tensor

    def __init__(
        self,
        model: Acoustic,
        options: MethodOptions,
        steps: int,
        wait: bool = True,
        *,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.model, self.options, self.parts = model, options, parts
        # Before, it would fight the way out of the all-blank plateau.
        self.contrast_from = steps // 3 if wait else 0
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @property
    def step(self) -> int:
        """The step of the batch at hand, from 0."""
        return int(self.calls) // self.parts

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a labelled batch."""
        losses = self.labelled_losses(batch)
        self.calls += 1
        return losses

    def labelled_losses(self, speech: Speech) -> dict[str, Tensor]:
        """Return "loss", "ctc", "contrast", "impossible" (utterances too short for their text)."""
        log_probs, frames = self.model(speech.audio, speech.samples, self.options.augment)
        labels = transcript(speech, frames)
        plain = ctc_loss(log_probs, labels)
        ctc = mean_of_finite(plain)
        contrast = torch.zeros_like(ctc)
        if self.options.contrastive and self.step >= self.contrast_from:
            contrast = self._contrast(log_probs, frames, labels, plain)
        return {
            "loss": ctc + self.options.contrastive * contrast,
            "ctc": ctc.detach(),
            "contrast": contrast.detach(),
            "impossible": (~torch.isfinite(plain)).float().sum(),
        }

    def _contrast(self, log_probs: Tensor, frames: Tensor, labels: Labels, plain: Tensor) -> Tensor:
        """Against what the student wrote in the same noisy pass, or all single substitutions."""
        if self.options.contrast == "token":
            chosen = torch.isfinite(plain)
            if not chosen.any():
                return plain.new_zeros(())
            losses = token_contrastive_loss(log_probs[:, chosen], labels.take(chosen))
            return losses.sum() / len(plain)
        written = greedy(log_probs.detach(), frames)
        wrong = written.labels(torch.zeros_like(written.live), frames)
        same = torch.tensor(
            [a == b[: int(n)] for a, b, n in zip(
                written.lists(), labels.tokens.tolist(), labels.lengths, strict=True)],
            device=plain.device,
        )  # fmt: skip
        chosen = torch.isfinite(plain) & ~same & (written.lengths > 0)
        if not chosen.any():
            return plain.new_zeros(())
        losses = ctc_loss(log_probs[:, chosen], wrong.take(chosen))
        return contrastive_loss(plain[chosen], losses[:, None]).sum() / len(plain)


class PseudoLabelled(Supervised):
    """The student learns from transcripts and from what its moving average, the teacher, writes.

    The teacher follows at the start of the step after an update, or when `follow` is called
    before; both are part of the stored state, so that a resumed run takes the same steps.
    """

    behind: Tensor

    def __init__(
        self,
        model: Acoustic,
        options: MethodOptions,
        proxy: Sequence[Speech],
        sample: Sequence[Speech],
        parts: int = 1,
    ) -> None:
        super().__init__(model, options, 0, wait=False, parts=parts)
        self.teacher: Acoustic = copy.deepcopy(model).requires_grad_(False)
        self.doubt = Doubt(options, with_student=True)
        self.proxy, self.sample = proxy, sample
        self.register_buffer("behind", torch.zeros((), dtype=torch.bool))
        self.few_errors = False
        self.teacher.eval()

    def train(self, mode: bool = True) -> PseudoLabelled:
        """Switch the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher towards the student, once per update; buffers are copied."""
        if not self.behind:
            return
        decay = self.options.teacher_decay
        for mine, new in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
            mine.lerp_(new, 1 - decay)
        for kept, fresh in zip(self.teacher.buffers(), self.model.buffers(), strict=True):
            kept.copy_(fresh)
        self.behind.fill_(False)

    def forward(self, batch: Mixed) -> dict[str, Tensor]:
        """Return the losses of a labelled and an unlabelled batch."""
        if int(self.calls) % self.parts == 0:
            self.follow()
            self._retune()
        losses = self.labelled_losses(batch.labelled)
        if self.options.method != "supervised":
            weight = min(1.0, (self.step + 1) / max(1, self.options.ramp))
            unlabelled, facts = self.unlabelled_loss(batch.unlabelled)
            losses["loss"] = losses["loss"] + self.options.unlabelled_weight * weight * unlabelled
            losses |= {"pseudo": unlabelled.detach(), **facts}
        self.calls += 1
        self.behind.fill_(True)
        return losses

    def _retune(self) -> None:
        """Set the threshold of doubt anew, where it is time and the method has one."""
        if self.options.method in ("apl", "mask-token") and not (
            self.step % self.options.retune_every
        ):
            found = self.doubt.retune(self.teacher, self.model, self.proxy, self.sample)
            self.few_errors = found.fallback

    def unlabelled_loss(self, speech: Speech) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the utterances that are kept, and what was doubted."""
        with torch.no_grad():
            labels, kept, decoded = self._pseudo_labels(speech)
        facts = self._facts(speech, labels, kept, decoded)
        if not kept.any():
            return facts["kept"].new_zeros(()), facts
        log_probs, _ = self.model(
            speech.audio[kept], speech.samples[kept], self.options.augment_unlabelled
        )
        labels = labels.take(kept)
        if self.options.alternatives.startswith("star"):
            mean = self.options.alternatives == "star-mean"
            losses = star_ctc_loss(log_probs, labels, mean)
        else:
            losses = doubtful_loss(log_probs, labels, self.options.skip, self.options.extra)
        return mean_of_finite(losses), facts

    def _pseudo_labels(self, speech: Speech) -> tuple[Labels, Tensor, Decoded]:
        """Return what the teacher writes with its flags, and which utterances (B,) are kept."""
        method, options = self.options.method, self.options
        log_probs, frames = self.teacher(speech.audio, speech.samples)
        decoded = greedy(log_probs, frames)
        none = torch.zeros_like(decoded.live)
        labels = decoded.labels(none, frames)
        if method == "oracle-labels":
            labels = transcript(speech, frames)
        elif method == "oracle-flags":
            labels = decoded.labels(~correctness(decoded, speech) & decoded.live, frames)
        elif method in ("apl", "mask-token"):
            found = self.doubt.look(self.teacher, self.model, speech, log_probs, frames, decoded)
            labels = self.doubt.targets(self.doubt.judge(found), decoded, log_probs, frames)
        # An empty label would teach silence; an utterance that is mostly doubted teaches nothing.
        kept = labels.lengths > 0
        if method == "filter":
            kept &= utterance_confidence(log_probs, frames) > options.filter_above
        elif method == "mask-token":
            kept &= ~labels.flags.any(1)
        elif not options.soft:
            kept &= labels.flags.sum(1) <= options.most_flagged * labels.lengths
        return labels, kept, decoded

    def _facts(
        self, speech: Speech, labels: Labels, kept: Tensor, decoded: Decoded
    ) -> dict[str, Tensor]:
        seconds = speech.samples.sum() / self.model.rate
        facts = {
            "kept": kept.float().mean(),
            "flagged": labels.flags.sum() / labels.lengths.sum().clamp_min(1),
            "tau": self.doubt.tau.nan_to_num(0.0),
            "tokens_per_s": decoded.lengths.sum() / seconds,
        }
        if (speech.lengths >= 0).all() and labels.flags.shape == decoded.live.shape:
            wrong = ~correctness(decoded, speech) & decoded.live
            hits = (wrong & labels.flags).sum()
            facts["wrong"] = wrong.sum() / decoded.live.sum().clamp_min(1)
            facts["recall"] = hits / wrong.sum().clamp_min(1)
            facts["precision"] = hits / labels.flags.sum().clamp_min(1)
        return {name: value.detach().float() for name, value in facts.items()}
