from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mlkit.core.audio import write_wav
from mlkit.core.errors import DataError
from mlkit.tasks.transcribe.readers import need_audio, need_text, read_set, shared
from mlkit.tasks.transcribe.tokens import LETTERS, Tokens, collect


def sound(path: Path, seconds: float = 0.3, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    write_wav(path, 0.1 * torch.randn(round(8000 * seconds), generator=generator), 8000)
    return path


def test_a_librispeech_tree(tmp_path: Path) -> None:
    folder = tmp_path / "12" / "34"
    sound(folder / "12-34-0000.wav")
    (folder / "12-34.trans.txt").write_text("12-34-0000 HE SAID  SO\n")
    (item,) = read_set(tmp_path)
    assert (item.key, item.text, item.speaker) == ("12-34-0000", "he said so", "12")
    (folder / "12-34.trans.txt").write_text("12-34-0001 GONE\n")
    with pytest.raises(DataError, match="12-34-0001"):
        read_set(tmp_path)


def test_a_manifest_with_and_without_text(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1.0)
    rows = [
        {"audio_filepath": "a.wav", "duration": 0.5, "text": "Hi There", "speaker": "x"},
        {"audio_filepath": "a.wav", "duration": 0.25, "offset": 0.5},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole, part = read_set(tmp_path / "m.jsonl")
    assert (whole.text, whole.speaker, part.text) == ("hi there", "x", None)
    assert (len(whole.load(8000)), len(part.load(8000))) == (8000, 2000)
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav"}\n')
    with pytest.raises(DataError, match="line 1 is no entry"):
        read_set(tmp_path / "m.jsonl")


def test_kaldi_with_segments(tmp_path: Path) -> None:
    sound(tmp_path / "r.wav", 1.0)
    (tmp_path / "wav.scp").write_text("rec r.wav\n")
    (tmp_path / "segments").write_text("u1 rec 0.0 0.5\nu2 rec 0.5 0.75\n")
    (tmp_path / "text").write_text("u1 YES\nu2 no no\n")
    (tmp_path / "utt2spk").write_text("u1 bob\nu2 eve\n")
    one, two = read_set(tmp_path)
    assert (one.text, one.speaker, two.text) == ("yes", "bob", "no no")
    assert len(two.load(8000)) == 2000
    (tmp_path / "segments").write_text("u1 rec 0.0\n")
    with pytest.raises(DataError, match="segments is damaged"):
        read_set(tmp_path)
    (tmp_path / "wav.scp").write_text("rec sox r.wav -t wav - |\n")
    with pytest.raises(DataError, match="is a command"):
        read_set(tmp_path)


def test_common_voice_digits_and_plain_folders(tmp_path: Path) -> None:
    sound(tmp_path / "cv" / "clips" / "c1.wav")
    (tmp_path / "cv" / "train.tsv").write_text("client_id\tpath\tsentence\nz\tc1.wav\tHello you\n")
    (item,) = read_set(tmp_path / "cv" / "train.tsv")
    assert (item.text, item.speaker) == ("hello you", "z")
    assert item.path is not None
    assert item.path.is_file()
    sound(tmp_path / "fsdd" / "7_ann_3.wav")
    assert [(i.text, i.speaker) for i in read_set(tmp_path / "fsdd")] == [("seven", "ann")]
    sound(tmp_path / "plain" / "a.wav")
    sound(tmp_path / "plain" / "b.wav")
    (tmp_path / "plain" / "a.txt").write_text("Some words\n")
    assert [i.text for i in read_set(tmp_path / "plain")] == ["some words", None]
    assert read_set(tmp_path / "plain" / "b.wav")[0].text is None


def test_what_is_missing_is_counted_and_named(tmp_path: Path) -> None:
    for name in "abc":
        sound(tmp_path / f"{name}.wav")
    found = read_set(tmp_path)
    with pytest.raises(DataError, match="3 of 3 recordings have no transcript: a, b, c"):
        need_text(found, tmp_path)
    need_audio(found, 0.04)
    sound(tmp_path / "b.wav", 0.01)
    with pytest.raises(DataError, match=r"b lasts 0\.010 s"):
        need_audio(found, 0.04)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match="does not exist"):
        need_audio(found, 0.04)
    with pytest.raises(DataError, match="does not exist"):
        read_set(tmp_path / "none")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(DataError, match="is no data set"):
        read_set(tmp_path / "x.doc")


def test_shared_recordings_are_found_by_content(tmp_path: Path) -> None:
    sound(tmp_path / "one" / "a.wav", seed=1)
    sound(tmp_path / "two" / "other.wav", seed=1)
    sound(tmp_path / "two" / "new.wav", seed=2)
    assert shared(read_set(tmp_path / "one"), read_set(tmp_path / "two")) == [("a", "other")]


def test_tokens_and_text() -> None:
    numbers = LETTERS.encode("It’s  ME")
    assert LETTERS.decode(numbers) == "it's me"
    assert [word for word, _ in LETTERS.words(numbers)] == ["it's", "me"]
    assert LETTERS.words(numbers)[1][1] == [5, 6]
    with pytest.raises(DataError, match="does not know: '4' 'é'"):
        LETTERS.encode("café 4")
    assert LETTERS.decode(LETTERS.encode("café 4", "drop")) == "caf"
    words = collect(["one two", "two three"], "word")
    assert words == Tokens("word", ("one", "three", "two"))
    assert words.decode(words.encode("two one")) == "two one"
