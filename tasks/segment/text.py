"""From sentences to numbers: tokens, vocabulary, and words whose opposite mirrors a scene."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import DataError
from .config import MAX_WORDS

SPECIAL = ("<pad>", "<go>", "<eos>", "<unk>")
PAD, UNKNOWN = 0, 3
# Words that say nothing by themselves: a sentence of these and unknown words is not understood.
EMPTY_WORDS = frozenset(
    ("the", "a", "an", "of", "in", "on", "at", "to", "from", "with", "and", "is", "that", "this")
)
Tokenizer = Literal["product", "official"]

_OPPOSITES = {
    "left": "right", "leftmost": "rightmost", "largest": "smallest", "biggest": "tiniest",
    "top": "bottom", "topmost": "bottommost", "above": "below", "small": "large",
}  # fmt: skip
OPPOSITES = _OPPOSITES | {value: key for key, value in _OPPOSITES.items()}
MIRRORED = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}


def tokenize(text: str, kind: Tokenizer = "product") -> list[str]:
    """Return the lower-case words of a sentence.

    "official" splits as the paper's code: non-word characters stay as tokens with their blanks
    ("man's" -> man ' s), one final full stop is dropped. "product" drops all punctuation.
    """
    words = [word for word in re.split(r"(\W+)", text.lower().strip()) if word.strip()]
    if kind == "product":
        return [word for word in words if re.search(r"\w", word)]
    return words[:-1] if words[-1:] == ["."] else words


def exchange(text: str, table: dict[str, str]) -> str:
    """Return `text` with every whole word that is in `table` replaced, in lower case."""
    return re.sub(r"\w+", lambda found: table.get(found[0].lower(), found[0]), text)


@dataclass(frozen=True)
class Vocabulary:
    """Known words; number 0 pads, number 3 stands for every unknown word."""

    words: tuple[str, ...]
    tokenizer: Tokenizer = "product"

    @classmethod
    def build(
        cls, texts: Iterable[str], tokenizer: Tokenizer = "product", min_count: int = 1
    ) -> Vocabulary:
        """Return the words of `texts`, most frequent first, ties in alphabetical order."""
        counts = Counter(word for text in texts for word in tokenize(text, tokenizer))
        order = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL, *(w for w in order if counts[w] >= min_count)), tokenizer)

    def __len__(self) -> int:
        return len(self.words)

    def unknown(self, text: str) -> list[str]:
        """Return the words of `text` that were not in the training data."""
        known = set(self.words)
        return [word for word in tokenize(text, self.tokenizer) if word not in known]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return (B, N) int64 word numbers, padded on the right with 0; N is at most 20.

        Padding stands on the right so that pairs of words are those of the sentence alone.
        """
        numbers = {word: number for number, word in enumerate(self.words)}
        rows = [
            [numbers.get(word, UNKNOWN) for word in tokenize(text, self.tokenizer)[:MAX_WORDS]]
            for text in texts
        ]
        width = max(1, *(len(row) for row in rows))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])

    def check(self, text: str) -> list[str]:
        """Return what should be warned of in `text`. Raises `DataError` if nothing is known."""
        words = tokenize(text, self.tokenizer)
        if not words:
            raise DataError(f"'{text}' holds no words", "say what to find, such as 'the left dog'")
        unknown = self.unknown(text)
        if not set(words[:MAX_WORDS]) - set(unknown) - EMPTY_WORDS:
            named = ", ".join(dict.fromkeys(unknown)) or text
            raise DataError(
                f"none of these words was in the training vocabulary: {named}",
                f"it knows: {', '.join(self.samples())}",
            )
        notes = [f"unknown words: {', '.join(dict.fromkeys(unknown))}"] if unknown else []
        if len(words) > MAX_WORDS:
            notes.append(f"only the first {MAX_WORDS} of {len(words)} words count")
        return notes

    def samples(self, count: int = 12) -> list[str]:
        """Return some of the most frequent words that mean something."""
        return [w for w in self.words[len(SPECIAL) :] if w not in EMPTY_WORDS][:count]
