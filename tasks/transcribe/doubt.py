"""Which tokens of a pseudo-label are doubted, and what they may be instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...core.edits import correct_tokens
from .confidence import posterior_confidence, second_opinions
from .config import DoubtOptions
from .data import Speech
from .detector import FOLDS, INGREDIENTS, features, fit_logistic, out_of_fold, predict
from .greedy import Decoded, greedy
from .lattice import NEG, Labels
from .model import Acoustic
from .threshold import FEWEST_ERRORS, Found, find_threshold
from .threshold_rules import parse_rule

SMOOTHING = 0.5  # of the threshold, from one search to the next
CERTAIN = 0.995  # above it --soft leaves a token alone


class Doubt(nn.Module):
    """The error detector. Its threshold and its weights are part of the training state.

    `tau` is the threshold, NaN before the first search. The student is looked at by "agreement"
    and by "fused"; without one, "fused" does without that ingredient.
    """

    tau: Tensor
    learned: Tensor

    def __init__(self, options: DoubtOptions, with_student: bool) -> None:
        super().__init__()
        self.options, self.rule = options, parse_rule(options.threshold, options.beta)
        self.names: tuple[str, ...] = (options.confidence,)
        if options.confidence == "fused":
            self.names = tuple(n for n in INGREDIENTS if with_student or n != "agreement")
        self.register_buffer("tau", torch.tensor(torch.nan, dtype=torch.float64))
        size = 3 * len(self.names) + 1
        self.register_buffer("learned", torch.zeros(size, dtype=torch.float64))

    def look(
        self,
        teacher: Acoustic,
        student: Acoustic | None,
        speech: Speech,
        log_probs: Tensor,
        frames: Tensor,
        decoded: Decoded,
    ) -> dict[str, Tensor]:
        """Return the confidences (B, U) that this detector is made of."""
        found = {}
        for name in self.names:
            if name in decoded.runs:
                found[name] = decoded.runs[name]
            elif name == "duration":
                found[name] = (decoded.ends - decoded.starts).float()
            elif name == "posterior":
                labels = decoded.labels(torch.zeros_like(decoded.live), frames)
                found[name] = posterior_confidence(log_probs, labels)
            elif name == "perturbed":
                with noisy(teacher):
                    found[name] = second_opinions(
                        self.options.passes,
                        lambda: teacher(speech.audio, speech.samples, 1.0),
                        decoded,
                    )
            else:
                assert student is not None
                with still(student):
                    found[name] = second_opinions(
                        1, lambda: student(speech.audio, speech.samples), decoded
                    )
        return found

    def judge(self, found: dict[str, Tensor]) -> Tensor:
        """Return one confidence (B, U) from what `look` found."""
        if self.options.confidence != "fused":
            return next(iter(found.values()))
        if not self.learned.any():
            return found["posterior"]
        return predict(self.learned, features(found).to(self.learned.device)).float()

    @torch.no_grad()
    def retune(
        self,
        teacher: Acoustic,
        student: Acoustic | None,
        proxy: Sequence[Speech],
        unlabelled: Sequence[Speech],
    ) -> Found:
        """Fit the detector and search the threshold on the proxy; smooths it with the last one."""
        seen = [self._examine(teacher, student, speech) for speech in proxy]
        found = {name: torch.cat([item[0][name] for item in seen]) for name in self.names}
        correct = torch.cat([item[1] for item in seen])
        if self.options.confidence == "fused":
            confidence = self._learn(found, correct, [item[2] for item in seen])
        else:
            confidence = found[self.options.confidence]
        others = None
        if self.rule.name == "rate" or int((~correct).sum()) < FEWEST_ERRORS:
            parts = [self._examine(teacher, student, speech)[0] for speech in unlabelled]
            others = torch.cat([self.judge(part) for part in parts]) if parts else None
        result = find_threshold(self.rule, confidence, correct, others)
        old = self.tau if torch.isfinite(self.tau) else torch.full_like(self.tau, result.tau)
        self.tau.copy_(SMOOTHING * old + (1 - SMOOTHING) * result.tau)
        return result

    def _learn(self, found: dict[str, Tensor], correct: Tensor, groups: Sequence[Tensor]) -> Tensor:
        x = features(found).cpu()
        owners = torch.cat([g + 10_000 * i for i, g in enumerate(groups)])
        if int((~correct).sum()) < FEWEST_ERRORS or len(owners.unique()) < FOLDS:
            self.learned.zero_()  # nothing to learn from: the posterior speaks alone
            return found["posterior"]
        self.learned.copy_(fit_logistic(x, correct))
        return out_of_fold(x, correct, owners)

    def _examine(
        self, teacher: Acoustic, student: Acoustic | None, speech: Speech
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return, for all tokens that the teacher writes: confidences, correctness, utterance."""
        log_probs, frames = teacher(speech.audio, speech.samples)
        decoded = greedy(log_probs, frames)
        found = self.look(teacher, student, speech, log_probs, frames, decoded)
        live = decoded.live
        rows = torch.arange(len(live), device=live.device)[:, None].expand_as(live)[live].cpu()
        correct = correctness(decoded, speech)[live].cpu()
        return {name: values[live].cpu() for name, values in found.items()}, correct, rows

    def targets(
        self, confidence: Tensor, decoded: Decoded, log_probs: Tensor, frames: Tensor
    ) -> Labels:
        """Return the decoded tokens as labels with flags, and weights where an option asks."""
        if self.options.soft:
            flags = (confidence < CERTAIN) & decoded.live
            return decoded.labels(flags, frames, self._soft_weights(confidence, decoded, log_probs))
        flags = (confidence < self.tau) & decoded.live
        return decoded.labels(flags, frames, self._weights(decoded, log_probs))

    def _soft_weights(self, confidence: Tensor, decoded: Decoded, log_probs: Tensor) -> Tensor:
        """Share what the confidence leaves over among the other tokens: their log odds."""
        c = confidence.clamp(0.02, 0.999)[..., None]
        others = log_probs.shape[2] - 2
        weights = ((1 - c) / (c * others)).log().expand(-1, -1, others + 1)
        return _own_token_free(weights.to(log_probs.dtype), decoded)

    def _weights(self, decoded: Decoded, log_probs: Tensor) -> Tensor | None:
        name, _, count = self.options.alternatives.partition(":")
        base = self.options.alternative_weight
        if name != "topk" and base == 0:
            return None
        shape = (*decoded.tokens.shape, log_probs.shape[2] - 1)
        weights = log_probs.new_full(shape, base)
        if name == "topk":
            spoken = _spoken(decoded, log_probs)
            keep = spoken.topk(min(int(count), shape[2]), 2).indices
            weights = torch.full_like(weights, NEG).scatter(2, keep, base)
        return _own_token_free(weights, decoded)


def _own_token_free(weights: Tensor, decoded: Decoded) -> Tensor:
    own = (decoded.tokens - 1).clamp_min(0)[..., None]
    return weights.scatter(2, own, 0.0)


def _spoken(decoded: Decoded, log_probs: Tensor) -> Tensor:
    """Return (B, U, V-1): the probability of every token, summed over the frames of a run."""
    time = torch.arange(len(log_probs), device=log_probs.device)
    inside = (time >= decoded.starts[..., None]) & (time < decoded.ends[..., None])
    return torch.einsum("but,tbv->buv", inside.to(log_probs.dtype), log_probs[..., 1:].exp())


def correctness(decoded: Decoded, speech: Speech) -> Tensor:
    """Return (B, U) bool: which decoded tokens stand in the transcript, where there is one."""
    result = torch.zeros_like(decoded.live)
    lengths = speech.lengths.tolist()
    for row, (tokens, length) in enumerate(zip(decoded.lists(), lengths, strict=True)):
        reference = speech.tokens[row, : max(0, length)].tolist()
        good = correct_tokens(reference, tokens)
        result[row, : len(good)] = torch.tensor(good, dtype=torch.bool, device=result.device)
    return result


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and put it back."""
    training = model.training
    model.eval()
    yield
    model.train(training)


@contextmanager
def noisy(model: nn.Module) -> Iterator[None]:
    """Switch on the dropout, and nothing else, of a model in eval mode."""
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    for layer in layers:
        layer.train()
    yield
    for layer in layers:
        layer.eval()
