from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mlkit.core.errors import CheckpointError
from mlkit.tasks.zeroshot import text
from mlkit.tasks.zeroshot.text import TextEncoder, find_encoder, split_words, word_pieces

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "a", "cafe", ",", "dog"]
WIDTH, LAYERS, HEADS = 8, 2, 2


def write_encoder(folder: Path) -> dict[str, Tensor]:
    """Write a tiny BERT with random weights."""
    torch.manual_seed(0)
    state = {
        "embeddings.word_embeddings.weight": torch.randn(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": torch.randn(text.MOST_PIECES, WIDTH),
        "embeddings.token_type_embeddings.weight": torch.randn(2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        place = f"encoder.layer.{i}"
        shapes = {
            **{f"attention.self.{n}": (WIDTH, WIDTH) for n in ("query", "key", "value")},
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (16, WIDTH),
            "output.dense": (WIDTH, 16),
        }
        for name, shape in shapes.items():
            state[f"{place}.{name}.weight"] = torch.randn(shape)
            state[f"{place}.{name}.bias"] = torch.randn(shape[0])
        norms += [f"{place}.attention.output.LayerNorm", f"{place}.output.LayerNorm"]
    for name in norms:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(WIDTH), torch.randn(WIDTH)
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    settings = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(settings))
    return state


def reference(state: dict[str, Tensor], numbers: list[int]) -> Tensor:
    """The same text through torch's own encoder layer."""
    x = state["embeddings.word_embeddings.weight"][numbers]
    x = x + state["embeddings.position_embeddings.weight"][: len(numbers)]
    x = x + state["embeddings.token_type_embeddings.weight"][0]
    x = F.layer_norm(
        x, (WIDTH,), state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"], 1e-12
    )[None]
    for i in range(LAYERS):
        place = f"encoder.layer.{i}"
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 16, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
        )
        parts = [f"{place}.attention.self.{n}" for n in ("query", "key", "value")]
        names = {
            "self_attn.out_proj": "attention.output.dense",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm1": "attention.output.LayerNorm",
            "norm2": "output.LayerNorm",
        }
        own = {
            "self_attn.in_proj_weight": torch.cat([state[f"{p}.weight"] for p in parts]),
            "self_attn.in_proj_bias": torch.cat([state[f"{p}.bias"] for p in parts]),
        }
        for mine, theirs in names.items():
            for kind in ("weight", "bias"):
                own[f"{mine}.{kind}"] = state[f"{place}.{theirs}.{kind}"]
        layer.load_state_dict(own)
        x = layer.train()(x)  # without dropout training mode is the plain path
    return F.normalize(x.mean(1), dim=1)[0].detach()


def test_words_and_pieces() -> None:
    assert split_words("Playing, a CAFÉ\t(dogs) 北京") == [
        *("playing", ",", "a", "cafe", "(", "dogs", ")", "北", "京"),
    ]
    numbers = {word: i for i, word in enumerate(WORDS)}
    assert word_pieces("playing", numbers, 1) == [4, 5]
    assert word_pieces("dogs", numbers, 1) == [10, 6]
    assert word_pieces("xdog", numbers, 1) == [1]


def test_the_encoder_is_torchs_with_the_mean_of_its_outputs(tmp_path: Path) -> None:
    state = write_encoder(tmp_path)
    encoder = TextEncoder(tmp_path)
    texts = ["a dog", "playing dogs, a cafe", "a"]
    found = encoder.encode(texts, batch=2)
    for row, said in zip(found, texts, strict=True):
        torch.testing.assert_close(
            row, reference(state, encoder.pieces(said)), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert len(encoder.pieces("dog " * 500)) == text.MOST_PIECES


def test_a_folder_without_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"lacks model.safetensors, vocab.txt, config.json"):
        find_encoder(tmp_path)
    write_encoder(tmp_path)
    assert find_encoder(tmp_path) == tmp_path
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a BERT encoder"):
        TextEncoder(tmp_path)
    monkeypatch.setattr(text, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(CheckpointError, match="no text encoder is installed") as caught:
        find_encoder(None)
    assert "--text-encoder" in caught.value.hint
