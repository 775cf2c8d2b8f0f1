"""From one recording to words with times: windows, decoding, confidences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import DataError
from .beam import NGram, Searcher, align_tokens, read_words
from .checkpoint import Trained
from .config import DecodeOptions
from .greedy import greedy
from .model import Acoustic, pad_audio

OVERLAP_S = 2.0


@dataclass(frozen=True)
class Word:
    """A word, from `start_s` to `end_s`; `confidence` in [0, 1] is its least sure token's."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """What was said in `seconds` of audio."""

    words: list[Word]
    seconds: float

    @property
    def text(self) -> str:
        """The words with blanks between them."""
        return " ".join(word.text for word in self.words)


def windows(samples: int, rate: int, window_s: float, stride: int) -> list[tuple[int, int]]:
    """Return (start, end) of windows that overlap by two seconds and begin at whole frames.

    `stride` is the number of samples of an output frame.
    """
    size = max(stride, round(window_s * rate) // stride * stride)
    hop = size - round(OVERLAP_S * rate) // stride * stride
    starts = range(0, max(1, samples - (size - hop)), hop)
    return [(start, min(start + size, samples)) for start in starts]


@torch.inference_mode()
def hear(model: Acoustic, audio: Tensor, window_s: float, batch_seconds: float) -> Tensor:
    """Return log probabilities (T, V) of samples (N,) of any length, on the CPU.

    Windows are joined in the middle of their overlaps.
    """
    stride = round(model.stride_s * model.rate)
    parts = windows(len(audio), model.rate, window_s, stride)
    total = int(model.frames(torch.tensor([len(audio)])))
    joined: Tensor | None = None
    half = round(OVERLAP_S / 2 / model.stride_s)
    at_once = max(1, int(batch_seconds // window_s))
    for first in range(0, len(parts), at_once):
        chosen = parts[first : first + at_once]
        batch, samples = pad_audio([audio[a:b] for a, b in chosen])
        device = next(model.parameters()).device
        log_probs, _ = model(batch.to(device), samples.to(device))
        if joined is None:
            joined = torch.zeros(total, log_probs.shape[2])
        for i, (start, _) in enumerate(chosen):
            place, number = start // stride, first + i
            low = 0 if number == 0 else place + half
            high = total if number == len(parts) - 1 else parts[number + 1][0] // stride + half
            high = min(high, total, place + len(log_probs))
            joined[low:high] = log_probs[low - place : high - place, i].float().cpu()
    assert joined is not None
    return joined


class Listener:
    """A model with its way of decoding."""

    def __init__(self, trained: Trained, options: DecodeOptions) -> None:
        self.trained, self.options = trained, options
        self.search: Searcher | None = None
        if options.decode == "beam":
            words = None if options.words is None else read_words(options.words)
            model = None if options.lm is None else NGram(options.lm)
            self.search = Searcher(
                trained.tokens, options.beam, words, model, options.lm_weight, options.word_bonus
            )
            if words is not None:
                self._check_words(words)

    def _check_words(self, words: set[str]) -> None:
        known = set(self.trained.tokens.symbols)
        usable = {w for w in words if set(self.trained.tokens.split(w)) <= known}
        if not usable:
            raise DataError(
                f"{self.options.words}: the model can write none of these words",
                self.trained.describe(),
            )

    def listen(self, audio: Tensor, name: str) -> Transcript:
        """Transcribe samples (N,) at the model's rate. Raises `DataError` if too short."""
        model = self.trained.model
        if int(model.frames(torch.tensor([len(audio)]))) < 1 or len(audio) < 0.04 * model.rate:
            raise DataError(
                f"{name} lasts {len(audio) / model.rate:.3f} s, less than one frame", "leave it out"
            )
        log_probs = hear(model, audio, self.options.window_s, self.options.batch_seconds)
        return Transcript(self._words(log_probs), len(audio) / model.rate)

    def _words(self, log_probs: Tensor) -> list[Word]:
        tokens, spans, sure = self._tokens(log_probs)
        step = self.trained.model.stride_s
        return [
            Word(
                text,
                round(spans[places[0]][0] * step, 3),
                round(spans[places[-1]][1] * step, 3),
                round(min(sure[i] for i in places), 4),
            )
            for text, places in self.trained.tokens.words(tokens)
        ]

    def _tokens(self, log_probs: Tensor) -> tuple[list[int], list[tuple[int, int]], list[float]]:
        """Return tokens, their frames, and their largest probabilities."""
        if self.search is not None:
            tokens = self.search.decode(log_probs)
            spans = align_tokens(log_probs, tokens)
            sure = [
                float(log_probs[a:b, token].max().exp())
                for token, (a, b) in zip(tokens, spans, strict=True)
            ]
            return tokens, spans, sure
        decoded = greedy(log_probs[:, None], torch.tensor([len(log_probs)]))
        tokens = decoded.lists()[0]
        spans = list(zip(decoded.starts[0].tolist(), decoded.ends[0].tolist(), strict=True))
        return tokens, spans, decoded.runs["max"][0].tolist()


def lines_of(words: list[Word]) -> Iterator[list[Word]]:
    """Yield the words of one subtitle after the other: at a pause, 80 characters or 7 seconds."""
    line: list[Word] = []
    for word in words:
        if line:
            length = sum(len(w.text) + 1 for w in line) + len(word.text)
            pause, span = word.start_s - line[-1].end_s, word.end_s - line[0].start_s
            if pause > 0.8 or length > 80 or span > 7:
                yield line
                line = []
        line.append(word)
    if line:
        yield line
