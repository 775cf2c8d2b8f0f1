"""Prefix beam search for CTC, with a word list or an n-gram model of words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import DataError
from .tokens import Tokens, plain_text

Prefix = tuple[int, ...]
LEAST = math.log(1e-4)  # tokens less likely than this are not tried at a frame
NOTHING = -math.inf


def logaddexp(a: float, b: float) -> float:
    """Return log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if b == NOTHING else a + math.log1p(math.exp(b - a))


class NGram:
    """A back-off n-gram model of words in ARPA format; scores are natural logarithms."""

    def __init__(self, path: Path) -> None:
        self.scores: dict[tuple[str, ...], tuple[float, float]] = {}
        self.order = 1
        size = 0
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}", "give an ARPA file") from error
        for number, line in enumerate(lines, 1):
            if line.startswith("\\") and line.endswith("-grams:"):
                size = int(line[1:].split("-")[0])
                self.order = max(self.order, size)
            elif size and line.strip() and not line.startswith("\\"):
                self._read(path, number, line.split(), size)
        if not self.scores:
            raise DataError(f"{path} holds no n-grams", "give an ARPA file")

    def _read(self, path: Path, number: int, cells: list[str], size: int) -> None:
        try:
            words = tuple(cells[1 : size + 1])
            backoff = float(cells[size + 1]) if len(cells) > size + 1 else 0.0
            self.scores[words] = (float(cells[0]) * math.log(10), backoff * math.log(10))
            if len(words) != size:
                raise ValueError("too few words")
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}: line {number} is damaged ({error})") from error

    def score(self, history: tuple[str, ...], word: str) -> float:
        """Return log P(word | history); unknown words get that of <unk>, or -20."""
        history = history[max(0, len(history) - self.order + 1) :]
        penalty = 0.0
        while True:
            found = self.scores.get((*history, word))
            if found is not None:
                return penalty + found[0]
            if not history:
                return penalty + self.scores.get(("<unk>",), (-20.0, 0.0))[0]
            penalty += self.scores.get(history, (0.0, 0.0))[1]
            history = history[1:]


@dataclass
class _Beam:
    blank: float = NOTHING  # log mass of paths that end in a blank
    token: float = NOTHING  # and in the last token

    def add(self, blank: float = NOTHING, token: float = NOTHING) -> None:
        self.blank, self.token = logaddexp(self.blank, blank), logaddexp(self.token, token)


class Searcher:
    """A configured search; `decode` finds the most probable tokens of one utterance."""

    def __init__(
        self,
        tokens: Tokens,
        width: int,
        words: set[str] | None = None,
        model: NGram | None = None,
        weight: float = 0.5,
        bonus: float = 0.0,
    ) -> None:
        self.tokens, self.width, self.words = tokens, width, words
        self.model, self.weight, self.bonus = model, weight, bonus
        self.beginnings = {w[:i] for w in words or () for i in range(len(w) + 1)}
        self.blank = tokens.symbols.index(" ") + 1 if " " in tokens.symbols else -1
        self._bonus: dict[Prefix, float] = {(): 0.0}

    def decode(self, log_probs: Tensor) -> list[int]:
        """Return the tokens of log probabilities (T, V), summed over all paths in the beam."""
        beams: dict[Prefix, _Beam] = {(): _Beam(blank=0.0)}
        for frame in log_probs.double():
            likely = (frame[1:] > LEAST).nonzero()[:, 0] + 1
            if not len(likely):
                likely = frame[1:].argmax()[None] + 1
            following: dict[Prefix, _Beam] = {}
            values = frame.tolist()
            for prefix, beam in beams.items():
                self._extend(prefix, beam, values, likely.tolist(), following)
            beams = self._best(following)
        final = [prefix for prefix in beams if self._complete(prefix)] or list(beams)
        scores = [self._rank(prefix, beams[prefix], end=True) for prefix in final]
        return list(final[scores.index(max(scores))])

    def _extend(
        self,
        prefix: Prefix,
        beam: _Beam,
        frame: list[float],
        likely: list[int],
        following: dict[Prefix, _Beam],
    ) -> None:
        both = logaddexp(beam.blank, beam.token)
        following.setdefault(prefix, _Beam()).add(blank=both + frame[0])
        if prefix:
            following[prefix].add(token=beam.token + frame[prefix[-1]])
        for token in likely:
            longer = (*prefix, token)
            if not self._allowed(prefix, token):
                continue
            # The same token again needs a blank between.
            before = beam.blank if prefix and token == prefix[-1] else both
            if before > NOTHING:
                following.setdefault(longer, _Beam()).add(token=before + frame[token])

    def _best(self, beams: dict[Prefix, _Beam]) -> dict[Prefix, _Beam]:
        ranked = sorted(beams, key=lambda p: self._rank(p, beams[p]), reverse=True)
        return {prefix: beams[prefix] for prefix in ranked[: self.width]}

    def _rank(self, prefix: Prefix, beam: _Beam, end: bool = False) -> float:
        score = logaddexp(beam.blank, beam.token) + self._language(prefix)
        if end and self.model is not None:
            words = self._words(prefix)
            if self.tokens.units == "char" and words:  # the last word had no blank behind it
                score += self._word_score(words[:-1], words[-1])
            score += self.weight * self.model.score(("<s>", *words), "</s>")
        return score

    def _words(self, prefix: Prefix) -> tuple[str, ...]:
        return tuple(word for word, _ in self.tokens.words(prefix))

    def _word_score(self, history: tuple[str, ...], word: str) -> float:
        assert self.model is not None
        return self.weight * self.model.score(("<s>", *history), word) + self.bonus

    def _language(self, prefix: Prefix) -> float:
        """Return the weighted score of the words that are complete in a prefix."""
        if self.model is None:
            return 0.0
        found = self._bonus.get(prefix)
        if found is None:
            found = self._language(prefix[:-1])
            words = self._words(prefix)
            ended = self.tokens.units == "word" or (
                prefix[-1] == self.blank and len(prefix) > 1 and prefix[-2] != self.blank
            )
            if ended and words:
                found += self._word_score(words[:-1], words[-1])
            self._bonus[prefix] = found
        return found

    def _tail(self, prefix: Prefix) -> str:
        """Return the letters after the last blank."""
        letters = []
        for token in reversed(prefix):
            if token == self.blank:
                break
            letters.append(self.tokens.symbols[token - 1])
        return "".join(reversed(letters))

    def _allowed(self, prefix: Prefix, token: int) -> bool:
        if self.words is None:
            return True
        symbol = self.tokens.symbols[token - 1]
        if self.tokens.units == "word":
            return symbol in self.words
        tail = self._tail(prefix)
        return (
            (not tail or tail in self.words) if symbol == " " else tail + symbol in self.beginnings
        )

    def _complete(self, prefix: Prefix) -> bool:
        if self.words is None or self.tokens.units == "word":
            return True
        tail = self._tail(prefix)
        return not tail or tail in self.words


def read_words(path: Path) -> set[str]:
    """Return the words of a list, one a line. Raises `DataError` when there are none."""
    try:
        words = {plain_text(line) for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "give one word a line") from error
    if not words:
        raise DataError(f"{path} holds no words", "give one word a line")
    return words


def align_tokens(log_probs: Tensor, tokens: list[int]) -> list[tuple[int, int]]:
    """Return for every token the first frame and the one after the last of its best path.

    The most probable path of log probabilities (T, V) that collapses to `tokens` (Viterbi); an
    empty list when none fits.
    """
    states = [0]
    for token in tokens:
        states += [token, 0]
    symbols = torch.tensor(states)
    skip = torch.full((len(states),), NOTHING, dtype=torch.float64)
    for s in range(3, len(states), 2):
        if states[s] != states[s - 2]:
            skip[s] = 0.0
    emissions = log_probs.double()[:, symbols]
    score = torch.full((len(states) + 2,), NOTHING, dtype=torch.float64)
    score[2] = emissions[0, 0]
    if tokens:
        score[3] = emissions[0, 1]
    back = []
    for frame in emissions[1:]:
        options = torch.stack((score[2:], score[1:-1], score[:-2] + skip))
        best, step = options.max(0)
        score[2:] = best + frame
        back.append(step.tolist())
    state = len(states) - 1
    if tokens and score[state + 1] > score[state + 2]:
        state -= 1
    if score[state + 2] == NOTHING:
        return []
    path = [state]
    for steps in reversed(back):
        path.append(path[-1] - steps[path[-1]])
    path.reverse()
    frames: Callable[[int], list[int]] = lambda u: [t for t, s in enumerate(path) if s == 2 * u + 1]  # noqa: E731
    return [(frames(u)[0], frames(u)[-1] + 1) for u in range(len(tokens))]
