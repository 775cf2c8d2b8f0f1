from __future__ import annotations

import math

import torch
from torch import Tensor

from mlkit.core.runtime import stream
from mlkit.tasks.transcribe.config import ModelOptions
from mlkit.tasks.transcribe.data import Corpus, Utterance
from mlkit.tasks.transcribe.tokens import Tokens

RATE = 8000
TOKENS = Tokens("word", ("low", "mid", "top"))
NETWORK = ModelOptions(rate=RATE, mel_bins=12, width=16)
TONES = {"low": 300.0, "mid": 900.0, "top": 2200.0}


def say(words: list[str], generator: torch.Generator) -> Tensor:
    """Words as tones of 0.16 s between pauses: speech that a tiny network learns in seconds."""
    time = torch.arange(round(0.16 * RATE)) / RATE
    pause = torch.zeros(round(0.12 * RATE))
    parts = [pause]
    for word in words:
        parts += [0.5 * torch.sin(2 * math.pi * TONES[word] * time), pause]
    audio = torch.cat(parts)
    return audio + 0.02 * torch.randn(len(audio), generator=generator)


def utterances(count: int, seed: int, transcribed: bool = True) -> list[Utterance]:
    generator = stream(seed, 3)
    made = []
    for i in range(count):
        size = 1 + int(torch.randint(4, (1,), generator=generator))
        words = [TOKENS.symbols[int(k)] for k in torch.randint(3, (size,), generator=generator)]
        text = " ".join(words) if transcribed else None
        speaker = f"s{i % 2}"
        made.append(
            Utterance(f"{speaker}-{seed}-{i}", None, text, speaker, audio=say(words, generator))
        )
    return made


def corpus(count: int, seed: int) -> Corpus:
    return Corpus(utterances(count, seed), TOKENS, RATE)
