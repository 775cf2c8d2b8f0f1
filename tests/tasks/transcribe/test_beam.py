from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.tasks.transcribe.beam import NGram, Searcher, align_tokens, read_words
from mlkit.tasks.transcribe.greedy import greedy
from mlkit.tasks.transcribe.tokens import Tokens

from .test_losses import collapse, logits, strings

LETTERS = Tokens("char", (" ", "a", "b"))
ARPA = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.0 <s> -0.5
-1.0 </s>
-0.5 one -0.2
-2.0 two -0.1

\\2-grams:
-0.1 <s> two
-0.3 one two

\\end\\
"""


def test_a_wide_beam_finds_the_most_probable_string() -> None:
    for seed in range(6):
        lp = logits(5, 4, seed=seed, scale=1.0).log_softmax(1)
        best = max(strings(lp).items(), key=lambda item: item[1])[0]
        assert tuple(Searcher(LETTERS, 500).decode(lp)) == best


def test_it_finds_more_than_the_greedy_path_and_agrees_where_that_is_sure() -> None:
    sure = 8 * torch.nn.functional.one_hot(torch.tensor([0, 2, 0, 2, 3, 0]), 4).double()
    lp = sure.log_softmax(1)
    expected = greedy(lp[:, None], torch.tensor([6])).lists()[0]
    assert Searcher(LETTERS, 5).decode(lp) == expected == [2, 2, 3]


@pytest.mark.parametrize("seed", range(4))
def test_only_words_of_the_list_are_written(seed: int) -> None:
    words = {"ab", "b"}
    lp = logits(9, 4, seed=seed, scale=1.0).log_softmax(1)
    text = LETTERS.decode(Searcher(LETTERS, 200, words).decode(lp))
    assert set(text.split()) <= words
    units = Tokens("word", ("ab", "b", "c"))
    assert set(units.decode(Searcher(units, 50, words).decode(lp)).split()) <= words


def test_n_grams_back_off(tmp_path: Path) -> None:
    (tmp_path / "m.arpa").write_text(ARPA)
    model = NGram(tmp_path / "m.arpa")
    ten = math.log(10)
    assert model.score(("<s>",), "two") == pytest.approx(-0.1 * ten)
    assert model.score(("<s>",), "one") == pytest.approx((-0.5 - 0.5) * ten)
    assert model.score(("<s>", "one"), "two") == pytest.approx(-0.3 * ten)
    assert model.score(("two",), "zzz") == pytest.approx(-0.1 * ten - 20)


def test_an_n_gram_model_decides_between_equals(tmp_path: Path) -> None:
    (tmp_path / "m.arpa").write_text(ARPA)
    tokens = Tokens("word", ("one", "two"))
    lp = torch.tensor([[-3.0, 0.1, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64).log_softmax(1)
    assert tokens.decode(Searcher(tokens, 10).decode(lp)) == "one"
    guided = Searcher(tokens, 10, model=NGram(tmp_path / "m.arpa"), weight=1.0)
    assert tokens.decode(guided.decode(lp)) == "two"


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "bad.arpa").write_text("\\1-grams:\nminus one\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="line 2 is damaged"):
        NGram(tmp_path / "bad.arpa")
    with pytest.raises(DataError, match="no n-grams"):
        NGram(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="no words"):
        read_words(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot read"):
        read_words(tmp_path / "none.txt")


@pytest.mark.parametrize("tokens", [[1, 2], [1, 1], [3], []])
def test_alignment_is_the_best_of_all_paths(tokens: list[int]) -> None:
    lp = logits(6, 4, seed=3).log_softmax(1)
    paths = [p for p in itertools.product(range(4), repeat=6) if collapse(p) == tuple(tokens)]
    best = max(paths, key=lambda p: sum(float(lp[t, v]) for t, v in enumerate(p)))
    spans, place = [], 0
    for token, run in itertools.groupby(best):
        size = len(list(run))
        if token:
            spans.append((place, place + size))
        place += size
    assert align_tokens(lp, tokens) == spans
    assert align_tokens(lp[:2], [1, 1]) == []
