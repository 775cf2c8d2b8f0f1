from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mlkit.core.audio import duration, find_audio, read_audio, resample, write_wav
from mlkit.core.errors import DataError


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats_channels_and_rates(tmp_path: Path, name: str) -> None:
    stereo = np.stack((tone(44_100), np.zeros(22_050)), 1)
    soundfile.write(tmp_path / name, stereo, 44_100)
    found = read_audio(tmp_path / name, 16_000)
    assert (found.rate, found.original_rate, found.channels) == (16_000, 44_100, 2)
    assert found.seconds == pytest.approx(0.5, abs=1e-3)
    expected = torch.from_numpy(tone(16_000) / 2).float()
    middle = slice(800, 7000)  # resampling filters and codecs ring at the ends
    assert (found.samples[middle] - expected[middle]).abs().max() < 0.02
    assert duration(tmp_path / name) == pytest.approx(0.5, abs=1e-3)


def test_a_section_of_a_file(tmp_path: Path) -> None:
    samples = torch.linspace(-0.5, 0.5, 8000)
    write_wav(tmp_path / "a.wav", samples, 8000)
    found = read_audio(tmp_path / "a.wav", None, 0.25, 0.5)
    torch.testing.assert_close(found.samples, samples[2000:4000], rtol=0, atol=1e-4)


def test_resampling_keeps_a_tone() -> None:
    low = torch.from_numpy(tone(8000)).float()
    high = resample(low, 8000, 16_000)
    expected = torch.from_numpy(tone(16_000)).float()
    assert (high[400:-400] - expected[400:-400]).abs().max() < 5e-3
    assert torch.equal(resample(low, 8000, 8000), low)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFFjunk" * 20)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 8000, subtype="FLOAT")
    for name, said in {
        "noise.wav": "not a wav, flac, ogg or mp3",
        "empty.wav": "no samples",
        "nan.wav": "not finite",
        "gone.wav": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(DataError, match=said):
            read_audio(tmp_path / name, 8000)
    with pytest.raises(DataError, match="cannot decode"):
        duration(tmp_path / "noise.wav")
    assert [p.name for p in find_audio(tmp_path)] == ["empty.wav", "nan.wav", "noise.wav"]
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="no audio files"):
        find_audio(tmp_path / "sub")


def test_hours_of_audio_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.core import audio

    write_wav(tmp_path / "a.wav", torch.zeros(16_000), 8000)
    monkeypatch.setattr(audio, "MAX_SECONDS", 1)
    with pytest.raises(DataError, match="more than") as caught:
        read_audio(tmp_path / "a.wav")
    assert "cut it" in caught.value.hint
