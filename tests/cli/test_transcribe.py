from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mlkit.core.audio import read_audio, write_wav
from mlkit.tasks.transcribe.checkpoint import WEIGHTS, open_trained

Mlkit = Callable[..., Any]
SAMPLE = WEIGHTS / "sample.wav"
SAID = "seven two two nine"
TINY = ["--rate", "8000", "--mel-bins", "12", "--width", "8", "--units", "word", "--steps", "4",
        "--save-every", "2", "--batch-size", "4", "--pseudo-steps", "4"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of single recorded words, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for word in range(3):
        for speaker in ("ann", "bob"):
            for index in range(3):
                noise = 0.1 * torch.randn(2400, generator=generator)
                write_wav(tmp_path / "words" / f"{word}_{speaker}_{index}.wav", noise, 8000)
    return tmp_path


def test_a_recording_without_any_option(mlkit: Mlkit, folder: Path) -> None:
    done = mlkit("transcribe", SAMPLE)
    assert done.code == 0, done.err
    assert SAID in done.out
    for word in ("the embedded model knows 10 words", "hears 8000 Hz"):
        assert word in done.out
    piped = mlkit("transcribe", "-", "--json", stdin=SAMPLE.read_bytes())
    found = json.loads(piped.out)["metrics"]["transcripts"][0]
    assert found["text"] == SAID
    times = [(w["start"], w["end"]) for w in found["words"]]
    assert times == sorted(times)
    assert all(0 <= a < b <= found["seconds"] for a, b in times)


def test_formats_and_places(mlkit: Mlkit, folder: Path) -> None:
    for kind in ("txt", "json", "srt", "vtt", "ctm"):
        done = mlkit("transcribe", SAMPLE, "-o", f"out.{kind}")
        assert done.code == 0, done.err
        streamed = mlkit("transcribe", SAMPLE, "-f", kind, "-o", "-")
        assert streamed.out == (folder / f"out.{kind}").read_text()
    assert mlkit("transcribe", SAMPLE, "-o", "out.txt").code == 3
    assert mlkit("transcribe", SAMPLE, "-o", "out.txt", "--overwrite").code == 0
    (folder / "a").mkdir()
    for name in ("x", "y"):
        (folder / "a" / f"{name}.wav").write_bytes(SAMPLE.read_bytes())
    done = mlkit("transcribe", "a", "-f", "srt", "-o", "subtitles")
    assert done.code == 0, done.err
    assert (folder / "subtitles" / "y.srt").read_text().startswith("1\n00:00:0")


def test_a_broken_file_among_many_is_skipped_and_listed(mlkit: Mlkit, folder: Path) -> None:
    (folder / "good.wav").write_bytes(SAMPLE.read_bytes())
    (folder / "bad.wav").write_bytes(b"no sound")
    done = mlkit("transcribe", "good.wav", "bad.wav", "--json")
    assert done.code == 3
    document = json.loads(done.out)
    assert document["metrics"]["transcripts"][0]["text"] == SAID
    assert "cannot decode bad.wav" in document["failures"]["bad.wav"]
    assert mlkit("transcribe", "bad.wav", "good.wav", "--strict").code == 3


def test_another_rate_and_stereo_are_heard_the_same(mlkit: Mlkit, folder: Path) -> None:
    samples = read_audio(SAMPLE, 16_000).samples.numpy()
    soundfile.write(folder / "s.flac", np.stack((samples, samples), 1), 16_000)
    done = mlkit("transcribe", "s.flac", "-v")
    assert SAID in done.out
    assert "16000 Hz, resampled to 8000" in done.err


def test_beam_search_with_a_word_list(mlkit: Mlkit, folder: Path) -> None:
    (folder / "words.txt").write_text("two\nnine\n")
    done = mlkit("transcribe", SAMPLE, "--decode", "beam", "--words", "words.txt", "--json")
    assert done.code == 0, done.err
    text = json.loads(done.out)["metrics"]["transcripts"][0]["text"]
    assert set(text.split()) <= {"two", "nine"}
    assert SAID in mlkit("transcribe", SAMPLE, "--decode", "beam").out


def test_long_audio_is_heard_in_windows(mlkit: Mlkit, folder: Path) -> None:
    one = read_audio(SAMPLE).samples
    write_wav(folder / "long.wav", torch.cat([one] * 12), 8000)
    done = mlkit("transcribe", "long.wav", "--window", "8", "--batch-seconds", "16", "--json")
    words = json.loads(done.out)["metrics"]["transcripts"][0]["text"].split()
    expected = SAID.split() * 12
    assert abs(len(words) - len(expected)) <= 5
    assert json.loads(done.out)["metrics"]["real_time_factor"] > 0


def test_from_words_to_a_model_and_its_scores(mlkit: Mlkit, folder: Path) -> None:
    for indices, name in (("0-1", "train"), ("2", "test")):
        done = mlkit("data", "spoken-strings", "words", "--indices", indices, "--count", "12",
                     "-o", name)  # fmt: skip
        assert done.code == 0, done.err
    checked = mlkit("check", "transcribe", "train", "--against", "test", "--json")
    metrics = json.loads(checked.out)["metrics"]
    assert (metrics["utterances"], metrics["words"], metrics["shared"]) == (12, 3, 0)
    trained = mlkit("train", "transcribe", "train/manifest.jsonl", "-u", "test", *TINY, "-o", "run")
    assert trained.code == 0, trained.err
    weights = "run/best.safetensors"
    scored = mlkit("eval", "transcribe", "test", "--weights", weights, "--trn", "out.trn", "--json")
    assert scored.code == 0, scored.err
    wer = json.loads(scored.out)["metrics"]["wer"]
    total = wer["substitutions"] + wer["deletions"] + wer["insertions"]
    assert wer["rate"] == pytest.approx(total / wer["reference"])
    assert len((folder / "out.trn").read_text().splitlines()) == 12
    assert "WER of ann" in mlkit("eval", "transcribe", "test", "--weights", weights).out
    assert mlkit("transcribe", "test", "--weights", weights).code == 0
    info = mlkit("info", weights)
    assert "transcribe" in info.out


def test_pseudo_labels_are_a_manifest(mlkit: Mlkit, folder: Path) -> None:
    (folder / "raw").mkdir()
    (folder / "raw" / "a.wav").write_bytes(SAMPLE.read_bytes())
    (folder / "dev").mkdir()
    (folder / "dev" / "b.wav").write_bytes(SAMPLE.read_bytes())
    (folder / "dev" / "b.txt").write_text("seven three three one")  # three mistakes to learn from
    done = mlkit("data", "pseudo-labels", "raw", "--threshold", "0.999", "-o", "p.jsonl")
    assert done.code == 0, done.err
    row = json.loads((folder / "p.jsonl").read_text())
    assert row["text"] == SAID
    assert [token["token"] for token in row["tokens"]] == SAID.split()
    for token in row["tokens"]:
        assert token["doubted"] == (token["confidence"] < 0.999)
    assert mlkit("transcribe", "p.jsonl").code == 3  # a manifest is no audio
    assert mlkit("check", "transcribe", "p.jsonl").code == 0
    for confidence in ("posterior", "fused"):
        command = ["data", "pseudo-labels", "raw", "--proxy", "dev", "--confidence", confidence]
        tuned = mlkit(*command, "-o", "-")
        assert tuned.code == 0, tuned.err
        assert len(json.loads(tuned.out)["tokens"]) == 4
    assert mlkit("data", "pseudo-labels", "raw", "--threshold", "0.5", "-o", "p.jsonl").code == 3


def test_the_demo_and_the_export(mlkit: Mlkit, folder: Path) -> None:
    done = mlkit("demo", "transcribe", "-o", "demo")
    assert done.code == 0, done.err
    assert f"heard: {SAID}" in done.out
    assert "data:image/png" in (folder / "demo" / "report.html").read_text()
    assert mlkit("demo", "transcribe", "-o", "demo").code == 3
    done = mlkit("export", WEIGHTS / "digits.safetensors", "-o", "digits.pt2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-4


def test_the_card_tells_the_truth_about_size_and_words() -> None:
    assert (WEIGHTS / "digits.safetensors").stat().st_size < 2_000_000
    trained = open_trained(None)
    assert set(trained.tokens.symbols) == {
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["transcribe"], 2, "AUDIO"),
        (["transcribe", "none.wav"], 3, "none.wav does not exist"),
        (["transcribe", "broken.wav"], 3, "cannot decode broken.wav: not a wav, flac"),
        (["transcribe", "empty.wav"], 3, "empty.wav holds no samples"),
        (["transcribe", "short.wav"], 3, "less than one frame"),
        (["transcribe", "nan.wav"], 3, "not finite"),
        (["transcribe", "nothing"], 3, "holds no audio files"),
        (["transcribe", SAMPLE, "-f", "doc"], 2, "doc"),
        (["transcribe", SAMPLE, "-f", "srt"], 2, "--format srt needs a place"),
        (["transcribe", SAMPLE, "-o", "x.doc"], 2, "must end in .txt"),
        (["transcribe", SAMPLE, "-o", "x.srt", "-f", "vtt"], 2, "disagree"),
        (["transcribe", SAMPLE, "--weights", "none.safetensors"], 4, "does not exist"),
        (["transcribe", SAMPLE, "--weights", "other.safetensors"], 4, "holds a 'model' of 'prune'"),
        (["transcribe", SAMPLE, "--words", "w.txt"], 2, "need --decode beam"),
        (["transcribe", SAMPLE, "--decode", "beam", "--words", "w.txt"], 3, "w.txt"),
        (["transcribe", SAMPLE, "--device", "cuda:99"], 5, "cuda:99"),
        (["transcribe", "-", "-"], 2, "- stands for one file"),
        (["train", "transcribe", "words"], 2, "needs --unlabelled"),
        (["train", "transcribe", "plain", "--method", "supervised"], 3, "have no transcript"),
        (["train", "transcribe", "odd", "--method", "supervised"], 3, "does not know: '4'"),
        (["train", "transcribe", "none", "--method", "supervised"], 3, "none does not exist"),
        (["train", "transcribe", "words", "-u", "words", "--method", "best"], 2, "best"),
        (["train", "transcribe", "words", "-u", "words", "--threshold", "2"], 2, "--threshold 2"),
        (["train", "transcribe", "words", "-u", "words", "--alternatives", "few"], 2, "topk:N"),
        (["train", "transcribe", "words", "-u", "words", "--resume", "gone"], 4, "nothing to"),
        (["train", "transcribe", "words", "--method", "supervised", "--model", "wav2vec2",
          "--rate", "8000"], 2, "hears 16000 Hz"),
        (["eval", "transcribe", "plain"], 3, "have no transcript"),
        (["check", "transcribe", "m.jsonl"], 3, "line 1 is no entry"),
        (["data", "pseudo-labels", "plain"], 2, "give --threshold a number"),
        (["data", "spoken-strings", "plain"], 3, "holds no such recordings"),
        (["data", "spoken-strings", "words", "--indices", "x"], 2, "write A-B"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit, folder: Path, arguments: list[Any], code: int, said: str
) -> None:
    from mlkit.core.checkpoint import Metadata, save

    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(60))
    soundfile.write(folder / "empty.wav", np.zeros(0), 8000)
    soundfile.write(folder / "short.wav", np.zeros(100), 8000)
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (folder / "nothing").mkdir()
    write_wav(folder / "plain" / "a.wav", torch.zeros(8000), 8000)
    for name in "ab":
        write_wav(folder / "odd" / f"{name}.wav", torch.zeros(8000), 8000)
        (folder / "odd" / f"{name}.txt").write_text("for 4")
    (folder / "m.jsonl").write_text("[]\n")
    save(folder / "other.safetensors", {"x": torch.zeros(1)}, Metadata("prune", "model"))
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
