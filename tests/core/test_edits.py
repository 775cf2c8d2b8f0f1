from __future__ import annotations

import random

import jiwer
import pytest

from mlkit.core.edits import Errors, align, correct_tokens, count_errors


def sentences(count: int) -> list[tuple[str, str]]:
    source = random.Random(0)
    made = []
    for _ in range(count):
        reference = [source.choice("abcd") for _ in range(source.randint(1, 9))]
        hypothesis = [w for w in reference if source.random() > 0.2]
        hypothesis = [source.choice("abcd") if source.random() < 0.3 else w for w in hypothesis]
        for _ in range(source.randint(0, 2)):
            hypothesis.insert(source.randint(0, len(hypothesis)), source.choice("abcd"))
        made.append((" ".join(reference), " ".join(hypothesis)))
    return made


def test_word_and_character_error_rates_are_those_of_jiwer() -> None:
    pairs = sentences(300)
    words = sum((count_errors(a.split(), b.split()) for a, b in pairs), Errors())
    theirs = jiwer.process_words([a for a, _ in pairs], [b for _, b in pairs])
    assert words.total == theirs.substitutions + theirs.deletions + theirs.insertions
    # Several shortest scripts exist; all have the same difference of deletions and insertions.
    assert words.deletions - words.insertions == theirs.deletions - theirs.insertions
    assert words.rate == pytest.approx(theirs.wer)
    letters = sum((count_errors(a, b) for a, b in pairs), Errors())
    assert letters.rate == pytest.approx(jiwer.cer([a for a, _ in pairs], [b for _, b in pairs]))


def test_the_counts_where_the_shortest_script_is_unique() -> None:
    found = count_errors(["1", "2", "3", "4"], ["1", "x", "3", "4", "5"])
    assert found == Errors(1, 0, 1, 4)
    theirs = jiwer.process_words("1 2 3 4", "1 x 3 4 5")
    assert (theirs.substitutions, theirs.deletions, theirs.insertions) == (1, 0, 1)
    assert count_errors("abc", "") == Errors(0, 3, 0, 3)
    assert count_errors("", "ab").rate == 2.0
    assert count_errors("", "").rate == 0.0


def test_a_pair_is_preferred_then_an_extra_hypothesis_token() -> None:
    assert align("ab", "xb") == [(0, 0), (1, 1)]
    assert align("a", "aa") == [(None, 0), (0, 1)]
    assert correct_tokens("abc", "axc") == [True, False, True]
    assert correct_tokens("ac", "abc") == [True, False, True]
    assert correct_tokens("", "ab") == [False, False]
