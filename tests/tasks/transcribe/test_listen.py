from __future__ import annotations

import itertools
import json
import re

import pytest
import torch

from mlkit.tasks.transcribe.listen import Transcript, Word, hear, lines_of, windows
from mlkit.tasks.transcribe.model import build
from mlkit.tasks.transcribe.writing import WRITERS

from .helpers import NETWORK, RATE, TOKENS, say


def test_windows_cover_everything_with_two_seconds_in_common() -> None:
    parts = windows(100_000, RATE, 5.0, 320)
    assert parts[0][0] == 0
    assert parts[-1][1] == 100_000
    for (start, end), (following, _) in itertools.pairwise(parts):
        assert end - following == pytest.approx(2 * RATE, abs=320)
        assert start % 320 == following % 320 == 0
    assert windows(1000, RATE, 5.0, 320) == [(0, 1000)]


def test_joined_windows_are_what_the_model_hears_in_one() -> None:
    """With the normalisation taken away the network sees at most a second around each frame."""
    torch.manual_seed(0)
    model = build(NETWORK, len(TOKENS)).eval()
    model.mel.forward = _plain(model.mel)  # type: ignore[method-assign]
    model.gru = _Local()  # type: ignore[assignment]
    model.head = torch.nn.Linear(80, len(TOKENS))
    audio = say(["low", "top"] * 30, torch.Generator().manual_seed(0))
    whole = hear(model, audio, 600.0, 600.0)
    for batch in (5.0, 20.0):
        cut = hear(model, audio, 5.0, batch)
        assert cut.shape == whole.shape
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4)


class _Local(torch.nn.Module):
    def forward(self, packed: object) -> tuple[object, None]:
        return packed, None


def _plain(mel: torch.nn.Module):  # type: ignore[no-untyped-def]
    def forward(audio: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spectrum = torch.stft(audio, mel.size, mel.hop, len(mel.window), mel.window,
                              center=True, pad_mode="constant", return_complex=True)  # fmt: skip
        return spectrum.abs()[:, :12].transpose(1, 2), mel.count(samples)

    return forward


WORDS = [
    Word("one", 0.04, 0.4, 0.9),
    Word("two", 0.52, 0.8, 0.8),
    Word("three", 3661.5, 3662.0, 0.7),
]


def test_subtitles_break_at_pauses_and_lengths() -> None:
    assert [[w.text for w in line] for line in lines_of(WORDS)] == [["one", "two"], ["three"]]
    many = [Word("w" * 9, i * 0.4, i * 0.4 + 0.3, 1.0) for i in range(60)]
    for line in lines_of(many):
        assert len(" ".join(w.text for w in line)) <= 80
        assert line[-1].end_s - line[0].start_s <= 7


def test_formats() -> None:
    transcript = Transcript(WORDS, 3700.0)
    text = {kind: write("talk", transcript) for kind, write in WRITERS.items()}
    assert text["txt"] == "one two three\n"
    assert json.loads(text["json"])["words"][1] == {
        "word": "two", "start": 0.52, "end": 0.8, "confidence": 0.8,
    }  # fmt: skip
    assert text["srt"].startswith("1\n00:00:00,040 --> 00:00:00,800\none two\n\n2\n01:01:01,500")
    assert text["vtt"].startswith("WEBVTT\n\n00:00:00.040 --> 00:00:00.800\none two\n")
    for line in text["ctm"].splitlines():
        assert re.fullmatch(r"talk 1 \d+\.\d{3} \d+\.\d{3} \w+ 0\.\d{4}", line)
    empty = Transcript([], 1.0)
    assert WRITERS["txt"]("x", empty) == "\n"
    assert WRITERS["vtt"]("x", empty) == "WEBVTT\n"
