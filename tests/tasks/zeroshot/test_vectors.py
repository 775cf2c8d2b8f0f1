from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mlkit.core.errors import DataError
from mlkit.core.progress import Silent
from mlkit.tasks.zeroshot.vectors import class_vectors, needed_words, read_words

NAMES = ("dog", "wild", "boar", "ice", "cream", "ice_cream", "German", "german")
WORDS = {
    name: torch.randn(4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(NAMES)
}


def unit(*names: str) -> torch.Tensor:
    return F.normalize(torch.stack([WORDS[name] for name in names]).mean(0), dim=0)


def test_names_are_looked_up_whole_then_in_parts() -> None:
    lemmas = [["dog"], ["wild_boar"], ["ice_cream"], ["wild-dog_boar"], ["dog", "ice"], ["zzz"]]
    found = class_vectors(lemmas, WORDS, 4)
    torch.testing.assert_close(found[0], unit("dog"))
    torch.testing.assert_close(found[1], unit("wild", "boar"))
    torch.testing.assert_close(found[2], unit("ice_cream"))
    torch.testing.assert_close(found[3], unit("wild", "dog", "boar"))
    torch.testing.assert_close(found[4], unit("dog", "ice"))
    assert not found[5].any()


def test_case_is_folded_unless_parity_is_wanted() -> None:
    torch.testing.assert_close(class_vectors([["German"]], WORDS, 4)[0], unit("german"))
    torch.testing.assert_close(class_vectors([["German"]], WORDS, 4, True)[0], unit("German"))
    assert needed_words([["German_Dog-x"]], True) >= {"German_Dog-x", "German", "Dog-x", "Dog", "x"}
    assert "german" in needed_words([["German"]], False)


def as_text(words: dict[str, torch.Tensor]) -> str:
    return "".join(f"{w} {' '.join(f'{x:.6f}' for x in v.tolist())}\n" for w, v in words.items())


@pytest.mark.parametrize("form", ["glove", "word2vec", "gzip", "npy", "safetensors"])
def test_every_format_gives_the_same_vectors(form: str, tmp_path: Path) -> None:
    text = as_text(WORDS)
    table = torch.stack(list(WORDS.values()))
    path = tmp_path / "v.txt"
    if form == "gzip":
        path = tmp_path / "v.txt.gz"
        path.write_bytes(gzip.compress(text.encode()))
    elif form in ("npy", "safetensors"):
        path = tmp_path / f"v.{form}"
        (tmp_path / "v.txt").write_text("\n".join(WORDS))
        if form == "npy":
            np.save(path, table.numpy())
        else:
            save_file({"vectors": table}, path)
    else:
        path.write_text(text if form == "glove" else f"{len(WORDS)} 4\n{text}")
    found = read_words(path, {"dog", "boar", "nothing"}, Silent())
    assert set(found) == {"dog", "boar"}
    torch.testing.assert_close(found["dog"], WORDS["dog"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dog 1 2 3\nboar 1 2\n", "line 2: 2 finite numbers expected to be 3"),
        ("dog 1 x 3\n", "line 1: not numbers behind 'dog'"),
        ("dog 1 nan 3\n", "line 1"),
        ("cat 1 2 3\n", "none of the words"),
        ("", "none of the words"),
    ],
)
def test_bad_files_name_the_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read_words(tmp_path / "v.txt", {"dog", "boar"}, Silent())


def test_tables_need_their_words(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match="no word list"):
        read_words(tmp_path / "v.npy", {"dog"}, Silent())
    (tmp_path / "v.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="its word list 2 words"):
        read_words(tmp_path / "v.npy", {"dog"}, Silent())
    np.save(tmp_path / "o.npy", np.array(["x"], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read"):
        read_words(tmp_path / "o.npy", {"dog"}, Silent())
    with pytest.raises(DataError, match="cannot read"):
        read_words(tmp_path / "missing.txt", {"dog"}, Silent())
