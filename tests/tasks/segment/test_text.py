from __future__ import annotations

import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.tasks.segment.text import (
    MIRRORED,
    OPPOSITES,
    SPECIAL,
    Vocabulary,
    exchange,
    tokenize,
)


def test_the_official_tokenizer_keeps_separators_and_drops_one_full_stop() -> None:
    assert tokenize("The man's left-hand.", "official") == [
        "the",
        "man",
        "'",
        "s",
        "left",
        "-",
        "hand",
    ]
    # A comma with its blank never equals the entry "," of the official vocabulary.
    assert tokenize("left, red", "official") == ["left", ", ", "red"]
    assert tokenize("stop..", "official") == ["stop", ".."]


def test_the_tokenizer_of_the_product_keeps_words_alone() -> None:
    assert tokenize("The man's left-hand, 2nd one.") == [
        "the",
        "man",
        "s",
        "left",
        "hand",
        "2nd",
        "one",
    ]
    assert tokenize("Größe: 東京!") == ["größe", "東京"]
    assert tokenize(" ...!") == []


def test_vocabulary_is_ordered_and_marks_what_it_does_not_know() -> None:
    words = Vocabulary.build(["a dog", "the dog", "the cat"])
    assert words.words == (*SPECIAL, "dog", "the", "a", "cat")
    tokens = words.encode(["the dog", "zebra"])
    assert torch.equal(tokens, torch.tensor([[5, 4], [3, 0]]))
    assert words.unknown("The big dog") == ["big"]
    assert Vocabulary.build(["a dog", "the dog"], min_count=2).words[4:] == ("dog",)
    assert words.encode(["dog " * 30]).shape == (1, 20)


def test_unknown_sentences_are_refused_and_unknown_words_named() -> None:
    words = Vocabulary.build(["the red dog"])
    assert words.check("the dog") == []
    assert words.check("the green dog") == ["unknown words: green"]
    assert "20 of 25 words" in words.check("dog " * 25)[0]
    for text in ("zeppelin", "the zeppelin of that"):
        with pytest.raises(DataError, match=r"none of these words .*: zeppelin"):
            words.check(text)
    with pytest.raises(DataError, match="none of these words"):
        words.check("the")
    with pytest.raises(DataError, match="holds no words"):
        words.check(" .. ")
    # A word that is cut off says nothing.
    with pytest.raises(DataError, match="none of these words"):
        words.check("zeppelin " * 20 + "dog")


def test_opposites_are_their_own_inverse() -> None:
    assert all(OPPOSITES[OPPOSITES[word]] == word for word in OPPOSITES)
    assert exchange("The Left dog, leftmost", MIRRORED) == "The right dog, rightmost"
    assert exchange("the largest above left", OPPOSITES) == "the smallest below right"
    assert exchange("leftover", MIRRORED) == "leftover"
