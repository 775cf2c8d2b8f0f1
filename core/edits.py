"""Edit distance with its alignment, and the error rates made of it (WER, CER)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Errors:
    """Errors against a reference of `length` words (or characters, or tokens); they add up."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    @property
    def total(self) -> int:
        """The edit distance."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word; may exceed 1. An empty reference has 0 or the insertions."""
        return self.total / max(1, self.length)

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )


def align(
    reference: Sequence[Hashable], hypothesis: Sequence[Hashable]
) -> list[tuple[int | None, int | None]]:
    """Return the pairs (place in reference, place in hypothesis) of a shortest edit script.

    None stands for a deletion (no hypothesis) or an insertion (no reference). Among equally short
    scripts a pair is preferred to dropping a hypothesis token, and that to missing one.
    """
    costs = _costs(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    pairs: list[tuple[int | None, int | None]] = []
    while i or j:
        here = costs[i][j]
        if i and j and here == costs[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif j and here == costs[i][j - 1] + 1:
            j -= 1
            pairs.append((None, j))
        else:
            i -= 1
            pairs.append((i, None))
    return pairs[::-1]


def _costs(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[list[int]]:
    """Return the table of Levenshtein distances between all beginnings."""
    rows = [list(range(len(hypothesis) + 1))]
    for i, word in enumerate(reference, 1):
        above, row = rows[-1], [i]
        for j, other in enumerate(hypothesis, 1):
            row.append(min(above[j - 1] + (word != other), above[j] + 1, row[-1] + 1))
        rows.append(row)
    return rows


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Errors:
    """Count substitutions, deletions and insertions of a shortest edit script."""
    pairs = align(reference, hypothesis)
    return Errors(
        sum(i is not None and j is not None and reference[i] != hypothesis[j] for i, j in pairs),
        sum(j is None for _, j in pairs),
        sum(i is None for i, _ in pairs),
        len(reference),
    )


def correct_tokens(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[bool]:
    """Tell for every hypothesis token whether it stands in the reference (not substituted or
    inserted)."""
    correct = [False] * len(hypothesis)
    for i, j in align(reference, hypothesis):
        if i is not None and j is not None:
            correct[j] = reference[i] == hypothesis[j]
    return correct
