from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mlkit.core.audio import write_wav
from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.tasks.transcribe import fit, stages
from mlkit.tasks.transcribe.checkpoint import open_trained
from mlkit.tasks.transcribe.config import ModelOptions, TrainConfig, TranscribeTrainOptions
from mlkit.tasks.transcribe.model import build

from .helpers import RATE, utterances

RUN = RunOptions(device="cpu", seed=2)
SHORT = TranscribeTrainOptions(steps=8, save_every=2, batch_size=4, warmup=2)
SMALL = {"rate": RATE, "mel_bins": 12, "width": 8, "units": "word", "pseudo_steps": 6}


def write_set(folder: Path, count: int, seed: int, transcribed: bool = True) -> Path:
    lines = []
    for item in utterances(count, seed):
        assert item.audio is not None
        write_wav(folder / f"{item.key}.wav", item.audio.clamp(-1, 1), RATE)
        row = {"audio_filepath": f"{item.key}.wav", "text": item.text, "speaker": item.speaker}
        lines.append(json.dumps(row if transcribed else {"audio_filepath": f"{item.key}.wav"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    return {
        "labelled": write_set(tmp_path / "labelled", 10, 0),
        "unlabelled": write_set(tmp_path / "raw", 8, 1, transcribed=False),
    }


def config(sets: dict[str, Path], out: Path, **options: Any) -> TrainConfig:
    return TrainConfig(**sets, out=out, **{**SMALL, **options})


@pytest.mark.parametrize("stop_at", [2, 6])
def test_resumed_equals_uninterrupted_bit_for_bit(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped in the supervised stage, and in the one with pseudo-labels."""
    options = {"confidence": "perturbed", "retune_every": 3, "threshold": "rate"}
    whole, cut = (config(sets, tmp_path / name, **options) for name in ("whole", "cut"))
    fit.train(whole, SHORT, RUN)
    real, calls = stages.score_greedy, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == stop_at:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(stages, "score_greedy", interrupted)
    with pytest.raises(InterruptedRun):
        fit.train(cut, SHORT, RUN)
    monkeypatch.setattr(stages, "score_greedy", real)
    fit.train(cut.model_copy(update={"resume": cut.out}), SHORT, RUN)
    for name in ("seed/last", "last", "best"):
        one, two = (load_file(c.out / f"{name}.safetensors") for c in (whole, cut))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key].nan_to_num(), two[key].nan_to_num()) for key in one), name
    logs = [(c.out / "metrics.jsonl").read_text() for c in (whole, cut)]
    assert logs[0] == logs[1]


def test_a_run_folder_and_its_model(sets: dict[str, Path], tmp_path: Path) -> None:
    chosen = config(sets, tmp_path / "run")
    result = fit.train(chosen, SHORT, RUN)
    assert (chosen.out / "report.html").is_file()
    assert set(result.metrics) == {"dev", "seed"}
    trained = open_trained(chosen.out / "best.safetensors")
    assert trained.tokens.symbols == ("low", "mid", "top")
    assert "low mid top" in trained.describe()
    with pytest.raises(UsageError, match="holds a run already"):
        fit.train(chosen, SHORT, RUN)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        fit.train(chosen.model_copy(update={"resume": tmp_path / "none"}), SHORT, RUN)
    further = config(
        sets, tmp_path / "further", weights=chosen.out / "best.safetensors", method="pl"
    )
    fit.train(further, SHORT, RUN)
    assert not (further.out / "seed").exists()
    assert (further.out / "best.safetensors").is_file()


def test_the_same_recordings_on_both_sides_are_warned_of(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    progress = Silent()
    same = {"labelled": sets["labelled"], "unlabelled": sets["labelled"]}
    fit.train(config(same, tmp_path / "run"), SHORT, RUN, progress)
    assert any("10 recordings of --unlabelled are also in LABELLED" in w for w in progress.warnings)


def test_data_that_cannot_be_trained_on(sets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 of 8 recordings have no transcript"):
        fit.train(config({"labelled": sets["unlabelled"]}, tmp_path / "r", method="supervised"))
    (sets["labelled"] / "manifest.jsonl").write_text(
        '{"audio_filepath": "s0-0-0.wav", "text": "é 1"}\n' * 1
        + '{"audio_filepath": "s1-0-1.wav", "text": "ok"}\n'
    )
    chosen = config(sets, tmp_path / "r", units="char", method="supervised")
    with pytest.raises(DataError, match="does not know: '1' 'é'"):
        fit.train(chosen, SHORT, RUN)
    dropped = chosen.model_copy(update={"unknown": "drop"})
    options = SHORT.model_copy(update={"batch_size": 1})
    assert fit.train(dropped, options, RUN).metrics["dev"]["tokens"] >= 0


def test_another_network_s_body_is_taken_without_its_head(tmp_path: Path) -> None:
    options = ModelOptions(rate=RATE, mel_bins=12, width=8)
    source, target = build(options, 9), build(options, 4)
    torch.save(source.state_dict(), tmp_path / "body.pth")
    head = target.head.weight.clone()
    fit.load_body(target, tmp_path / "body.pth")
    assert torch.equal(target.gru.weight_ih_l0, source.gru.weight_ih_l0)
    assert torch.equal(target.head.weight, head)
    torch.save({"x": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="fits 0 of"):
        fit.load_body(target, tmp_path / "other.pth")
