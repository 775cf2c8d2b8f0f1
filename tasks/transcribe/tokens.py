"""Tokens: what a model writes, and how text becomes tokens and comes back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ...core.errors import DataError

Units = Literal["char", "word"]


def plain_text(text: str) -> str:
    """Return text in lower case with single blanks: what references and results are compared as."""
    return re.sub(r"\s+", " ", text.replace("’", "'").strip().lower())


@dataclass(frozen=True)
class Tokens:
    """The tokens 1, 2, ... of a model; 0 is the blank of CTC, " " the one between words."""

    units: Units
    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def split(self, text: str) -> list[str]:
        """Return the units of a text, known or not."""
        text = plain_text(text)
        return text.split() if self.units == "word" else list(text)

    def encode(self, text: str, unknown: Literal["error", "drop"] = "error") -> list[int]:
        """Return the numbers of a text's tokens. Raises `DataError` that lists unknown ones."""
        numbers = {symbol: i for i, symbol in enumerate(self.symbols, 1)}
        parts = self.split(text)
        strange = sorted({part for part in parts if part not in numbers})
        if strange and unknown == "error":
            what = "words" if self.units == "word" else "characters"
            shown = " ".join(repr(part) for part in strange[:8])
            raise DataError(
                f"'{text[:60]}' has {what} that the model does not know: {shown}",
                "take the tokens from the data (--tokens data), or pass --unknown drop",
            )
        return [numbers[part] for part in parts if part in numbers]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of token numbers."""
        parts = [self.symbols[number - 1] for number in numbers]
        return plain_text((" " if self.units == "word" else "").join(parts))

    def words(self, numbers: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return the words of a token sequence, each with the places of its tokens."""
        if self.units == "word":
            return [(self.symbols[number - 1], [i]) for i, number in enumerate(numbers)]
        found: list[tuple[str, list[int]]] = []
        fresh = True
        for place, number in enumerate(numbers):
            symbol = self.symbols[number - 1]
            if symbol == " ":
                fresh = True
                continue
            if fresh:
                found.append(("", []))
            word, places = found[-1]
            found[-1] = (word + symbol, [*places, place])
            fresh = False
        return found


def collect(texts: Iterable[str], units: Units) -> Tokens:
    """Return the tokens that occur in texts, sorted."""
    empty = Tokens(units, ())
    return Tokens(units, tuple(sorted({part for text in texts for part in empty.split(text)})))


LETTERS = Tokens("char", (" ", "'", *"abcdefghijklmnopqrstuvwxyz"))
