"""Utterances, and the batches that training takes from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.audio import read_audio
from .model import pad_audio
from .tokens import Tokens

CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Utterance:
    """A piece of speech. `text` is None where nobody wrote down what was said.

    The samples are in `path`, between `start_s` and `end_s` (None: the end), or in `audio` (N,)
    when they were made, which are then at the model's rate.
    """

    key: str
    path: Path | None
    text: str | None = None
    speaker: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    audio: Tensor | None = field(default=None, repr=False, compare=False)

    def load(self, rate: int) -> Tensor:
        """Return its samples (N,) in [-1, 1] at `rate`. Raises `DataError` for a broken file."""
        if self.audio is not None:
            return self.audio
        assert self.path is not None
        return read_audio(self.path, rate, self.start_s, self.end_s).samples


class Speech(NamedTuple):
    """A batch: `audio` (B, N) with `samples` (B,), `tokens` (B, U) with `lengths` (B,).

    The length -1 says that there is no transcript.
    """

    audio: Tensor
    samples: Tensor
    tokens: Tensor
    lengths: Tensor


class Mixed(NamedTuple):
    """A labelled and an unlabelled batch."""

    labelled: Speech
    unlabelled: Speech


class Corpus:
    """Utterances of one set as a `Source`; small sets stay in memory once they were read."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokens: Tokens,
        rate: int,
        drop_unknown: bool = False,
        hide_text: bool = False,
    ) -> None:
        self.utterances, self.rate = utterances, rate
        how = "drop" if drop_unknown else "error"
        self.targets = [
            None if item.text is None or hide_text else tokens.encode(item.text, how)  # type: ignore[arg-type]
            for item in utterances
        ]
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.utterances)

    def audio(self, index: int) -> Tensor:
        """Return the samples of an utterance."""
        found = self._kept.get(index)
        if found is None:
            found = self.utterances[index].load(self.rate)
            if self._kept_bytes + 4 * len(found) <= CACHE_BYTES:
                self._kept[index] = found
                self._kept_bytes += 4 * len(found)
        return found

    def batch(self, indices: Sequence[int]) -> Speech:
        """Return these utterances."""
        targets = [self.targets[i] for i in indices]
        width = max((len(target or ()) for target in targets), default=0)
        rows = [(target or []) + [0] * (width - len(target or ())) for target in targets]
        lengths = [-1 if target is None else len(target) for target in targets]
        return Speech(
            *pad_audio([self.audio(i) for i in indices]),
            torch.tensor(rows, dtype=torch.int64).view(len(rows), width),
            torch.tensor(lengths),
        )

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Speech:
        """Return a batch for training."""
        return self.batch(indices.tolist())

    def batches(self, size: int = 32) -> list[list[int]]:
        """Return all indices in batches of similar lengths."""
        order = sorted(range(len(self)), key=lambda i: len(self.audio(i)))
        return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass(frozen=True)
class MixedSource:
    """Unlabelled audio in the order of training, with labelled utterances drawn beside it."""

    labelled: Corpus
    unlabelled: Corpus
    labelled_batch: int

    def __len__(self) -> int:
        return len(self.unlabelled)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Mixed:
        """Return a batch of both."""
        count = min(self.labelled_batch, len(self.labelled))
        drawn = torch.randperm(len(self.labelled), generator=generator)[:count]
        return Mixed(
            self.labelled.fetch(drawn, generator), self.unlabelled.fetch(indices, generator)
        )
