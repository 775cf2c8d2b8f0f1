"""What every method must survive: kills, weights and inputs that are wrong, full disks."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from mlkit.cli.app import main
from mlkit.core import checkpoint, files
from mlkit.core.audio import write_wav

from .workshop import JOBS, furnish, sound_input

Mlkit = Callable[..., Any]
METHODS = pytest.mark.parametrize("method", JOBS)
TRAINED = pytest.mark.parametrize("method", [name for name, job in JOBS.items() if job.train])
WEIGHED = pytest.mark.parametrize("method", [name for name, job in JOBS.items() if job.score])
ONE_THREAD = ("--threads", "1", "--quiet")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("workshop"), Path.cwd()
    os.chdir(folder)
    try:
        furnish(folder, lambda *words: main(list(words)))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(furnished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the inputs of all jobs, which is also the current one."""
    monkeypatch.chdir(furnished)
    return furnished


def words(line: str, source: Path | str, out: Path) -> list[str]:
    """Return the words of a command line of a job, with its input and its folder filled in."""
    return [word.replace("OUT", str(out)).replace("INPUT", str(source)) for word in line.split()]


# --- training ---


@TRAINED
def test_a_killed_training_ends_with_the_same_bits(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    training = JOBS[method].train.split()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = mlkit(*training, "-o", whole, *ONE_THREAD)
    assert done.code == 0, done.err
    command = [sys.executable, "-m", "mlkit", *training, "-o", str(cut), *ONE_THREAD]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(cut.rglob("last.safetensors")):
            time.sleep(0.01)
        time.sleep(random.Random(method).uniform(0, 0.3))
        process.kill()
    resumed = mlkit(*training, "--resume", cut, *ONE_THREAD)
    assert resumed.code == 0, resumed.err
    for name in ("best.safetensors", "last.safetensors"):
        expected, found = load_file(whole / name), load_file(cut / name)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), (name, key)


@TRAINED
def test_a_folder_in_which_another_run_writes_is_left_alone(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    other = (
        "import sys; from pathlib import Path; from mlkit.core.files import Hold\n"
        "hold = Hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        done = mlkit(*JOBS[method].train.split(), "-o", folder, *ONE_THREAD)
        process.communicate()
    assert done.code == 2, done.err
    assert "is in use by another run" in done.err
    assert not list(folder.iterdir())


# Options under which a step is the mean over its parts, whichever process computes them: nothing
# is drawn in passing, and no part knows of the others.
PARTS = {
    "prune": "",
    "recommend": "",
    "segment": "",
    "track": "--batch-size 2 --track-drop 0 --false-tracks 0 --noise-pairs 0",
    "upscale": "--batch-size 2 --pretrain 0",
}
# These draw in passing (dropout, mixup), or carry a buffer from part to part.
DRAWING = ("denoise", "labelnoise", "transcribe")
# Equal in another way, which is tested with the method: BatchNorm and negatives over all processes.
TOGETHER = ("pretrain",)
ALONE = ("zeroshot",)  # every step needs everything
FEDERATED = ("forecast",)  # the coordinator of a federation is in each process


def test_every_trained_method_is_tried_in_two_processes() -> None:
    tried = (*PARTS, *DRAWING, *TOGETHER, *ALONE, *FEDERATED)
    assert sorted(tried) == sorted(name for name, job in JOBS.items() if job.train)


def in_two_processes(*command: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mlkit"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command), *ONE_THREAD, "--device", "cpu"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("method", [*PARTS, *FEDERATED])
def test_two_processes_train_as_one_that_takes_the_parts_in_turn(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    training = [*JOBS[method].train.split(), *PARTS.get(method, "").split()]
    parts = ["--accumulate", 2] if method in PARTS else []
    one, two = tmp_path / "one", tmp_path / "two"
    done = mlkit(*training, *parts, "-o", one, *ONE_THREAD, "--device", "cpu")
    assert done.code == 0, done.err
    both = in_two_processes(*training, "-o", two)
    assert both.returncode == 0, both.stderr
    expected, found = (load_file(folder / "last.safetensors") for folder in (one, two))
    # Each process counts the batches that it saw, and keeps the statistics of these.
    learnt = [
        key
        for key, tensor in expected.items()
        if key.startswith(("state.model", "state.best."))
        and tensor.is_floating_point()
        and "running_" not in key
    ]
    assert learnt
    for key in learnt:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("method", DRAWING)
def test_two_processes_train_together(place: Path, tmp_path: Path, method: str) -> None:
    done = in_two_processes(*JOBS[method].train.split(), "--batch-size", 4, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_what_sees_all_classes_in_every_step_is_not_shared_out(place: Path, tmp_path: Path) -> None:
    done = in_two_processes(*JOBS["zeroshot"].train.split(), "-o", tmp_path / "run")
    assert done.returncode != 0
    assert "every step sees all seen classes" in done.stderr
    assert "start it without torchrun" in done.stderr


# --- weights ---


def with_weights(method: str, weights: Path, out: Path) -> list[str]:
    return [*words(JOBS[method].score, "", out), "--weights", str(weights)]


@WEIGHED
def test_the_weights_of_every_other_method_are_refused(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    for other in JOBS:
        if other == method:
            continue
        file = tmp_path / f"{other}.safetensors"
        metadata = checkpoint.Metadata(other, "model", {})
        checkpoint.save(file, {"weight": torch.zeros(2)}, metadata)
        done = mlkit(*with_weights(method, file, tmp_path / "out"))
        assert done.code == 4, (other, done.err)
        assert other in done.err
        assert method in done.err
        assert not (tmp_path / "out").exists()


def huge_header(size: int) -> bytes:
    return size.to_bytes(8, "little") + b"{}"


DAMAGED = {
    "empty": b"",
    "text": b"weights",
    "random": np.random.default_rng(0).bytes(4096),
    "a header of 2**62 bytes": huge_header(2**62),
    "a header of 90 MB that is not there": huge_header(90_000_000),
    "a tensor of 2**60 numbers": (lambda text: len(text).to_bytes(8, "little") + text)(
        b'{"w":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}'
    ),
}


@WEIGHED
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights_are_told(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str, damage: str
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(DAMAGED[damage])
    done = mlkit(*with_weights(method, file, tmp_path / "out"))
    assert done.code == 4, done.err
    assert str(file) in done.err
    assert len(done.err.splitlines()) <= 2


# --- inputs ---


def check_refused(done: Any, out: Path, name: str) -> None:
    assert done.code in (2, 3), done.err
    assert name in done.err
    assert "internal error" not in done.err
    assert not out.exists() or not any(path.is_file() for path in out.rglob("*"))


@METHODS
@pytest.mark.parametrize("damage", ["missing", "empty", "zeros", "text", "random"])
def test_damaged_inputs_are_told(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str, damage: str
) -> None:
    file = tmp_path / f"given{JOBS[method].suffix}"
    content = {
        "empty": b"",
        "zeros": bytes(5000),
        "text": b"not what the name says\n",
        "random": np.random.default_rng(1).bytes(5000),
    }
    if damage in content:
        file.write_bytes(content[damage])
    done = mlkit(*words(JOBS[method].use, file, tmp_path / "out"))
    check_refused(done, tmp_path / "out", "given")


@METHODS
def test_names_that_no_file_can_have_are_told(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    name = 5000 * "x" + JOBS[method].suffix
    done = mlkit(*words(JOBS[method].use, name, tmp_path / "out"))
    check_refused(done, tmp_path / "out", 80 * "x")
    table = tmp_path / "list.csv"
    table.write_text(f"path,label,audio_filepath\n{name},a,b\n{name}y,b,a\n")
    done = mlkit(*words(JOBS[method].use, table, tmp_path / "out"))
    check_refused(done, tmp_path / "out", "")


@METHODS
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=300), magic=st.sampled_from([b"", b"RIFF", b"\x89PNG\r\n", b"a,b\n"])
)
def test_random_bytes_are_never_a_bug_of_ours(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str, data: bytes, magic: bytes
) -> None:
    file = tmp_path / f"given{JOBS[method].suffix}"
    file.write_bytes(magic + data)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    check_refused(
        mlkit(*words(JOBS[method].use, file, tmp_path / "out")), tmp_path / "out", "given"
    )


# Readers of numbers: what is written before and behind the one that is none, and who reads it.
NUMBERS = {
    "forecast-data": ("time,A01,B02\n0,1,2\n1,", ",3\n", ".csv", "check forecast INPUT"),
    "forecast-graph": (
        "from,to,distance\nA01,B02,",
        "\n",
        ".csv",
        "check forecast road/speeds.csv -g INPUT",
    ),
    "recommend": ("user,item,timestamp\na,x,1\na,y,", "\na,z,3\n", ".csv", "check recommend INPUT"),
    "track-boxes": (
        "1,-1,10,10,",
        ",20,1,-1,-1,-1\n",
        ".txt",
        "track seen/synth-0001 --det INPUT --method sort -o OUT/tracks.txt",
    ),
    "segment": (
        '{"image": "photos/0.png", "expression": "the circle", "mask": [[1, 1, 9, 9, 2, ',
        "]]}\n",
        ".jsonl",
        "check segment INPUT",
    ),
    "zeroshot-vectors": (
        "giraffe 0.1 0.2\nokapi 0.3 ",
        "\n",
        ".txt",
        "train zeroshot --nodes induced --classes unseen.txt --semantic INPUT -o OUT/run",
    ),
}
# No road is infinitely long, and a sensor that is silent writes NaN.
MEANT = {("forecast-data", "nan"), ("forecast-graph", "inf")}


NONE = [(reader, number) for reader in NUMBERS for number in ("nan", "inf", "-inf")]


@pytest.mark.parametrize(("reader", "number"), [pair for pair in NONE if pair not in MEANT])
def test_numbers_that_are_none_are_told(
    mlkit: Mlkit, place: Path, tmp_path: Path, reader: str, number: str
) -> None:
    before, behind, suffix, line = NUMBERS[reader]
    file = tmp_path / f"given{suffix}"
    json_name = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[number]
    file.write_text(before + (json_name if suffix == ".jsonl" else number) + behind)
    done = mlkit(*words(line, file, tmp_path / "out"))
    check_refused(done, tmp_path / "out", "given")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("given.npy", "reconstruct ct INPUT -o OUT/slice.png"),
        ("given.npy", "reconstruct mri INPUT -o OUT/slice.png"),
        ("given.tiff", "reconstruct image INPUT --scale 2 -o OUT/large.png"),
        ("given.tiff", "denoise INPUT -o OUT/clean.png"),
        ("given.tiff", "upscale INPUT -o OUT/big.png"),
        ("given.npz", "eval pretrain INPUT"),
        ("given.wav", "transcribe INPUT -o OUT/said.txt"),
    ],
)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 255), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_samples_that_are_no_numbers_are_told(
    mlkit: Mlkit, place: Path, tmp_path: Path, name: str, line: str, where: int, value: float
) -> None:
    samples = np.full(256, 0.5, np.float32)
    samples[where] = value
    file = tmp_path / name
    square = samples.reshape(16, 16)
    match file.suffix:
        case ".npy":
            np.save(file, square)
        case ".npz":
            np.savez(file, features=square, labels=np.arange(16))
        case ".tiff":
            Image.fromarray(square).save(file)
        case ".wav":
            file.write_bytes(float_wav(samples))
    check_refused(mlkit(*words(line, file, tmp_path / "out")), tmp_path / "out", "given")


def float_wav(samples: np.ndarray) -> bytes:
    """Return a mono file of 32-bit floats at 8 kHz."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32)
    content = samples.astype("<f4").tobytes()
    body = b"WAVE" + layout + struct.pack("<4sI", b"data", len(content)) + content
    return struct.pack("<4sI", b"RIFF", len(body)) + body


# --- outputs ---

WRITERS = [method for method in JOBS if method != "prune"]
QUICK = {
    "upscale": ("--method", "bicubic"),
    "denoise": ("--tol", "1e-2"),
}


@pytest.mark.parametrize("method", WRITERS)
def test_a_full_disk_is_told_and_leaves_nothing(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        if tmp_path in path.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_sync", full)
    line = words(JOBS[method].use, sound_input(method), tmp_path / "out")
    done = mlkit(*line, *QUICK.get(method, ()))
    assert done.code == 3, done.err
    assert "No space left on device" in done.err
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("method", WRITERS)
def test_a_place_that_cannot_be_written_is_told_first(
    mlkit: Mlkit, place: Path, tmp_path: Path, method: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    begin = time.process_time()
    done = mlkit(*words(JOBS[method].use, sound_input(method), tmp_path / "file"))
    assert done.code == 3, done.err
    assert str(tmp_path / "file") in done.err
    assert time.process_time() - begin < 60  # before the work, not after it


# --- many files ---


def many(folder: Path, suffix: str) -> None:
    """Write 1,000 small inputs, every hundredth of them broken."""
    folder.mkdir()
    quiet = torch.randn(800, generator=torch.Generator().manual_seed(0)) * 0.01
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    for number in range(1000):
        path = folder / f"{number:04d}{suffix}"
        if number % 100 == 50:
            path.write_bytes(b"broken")
        elif suffix == ".wav":
            write_wav(path, quiet, 8000)
        else:
            picture.save(path)


@pytest.mark.parametrize(
    ("line", "suffix"),
    [
        ("transcribe many -o out", ".wav"),
        ("upscale many -o out --method bicubic", ".png"),
        ("denoise many -o out --sigma 5 --mode tstep", ".png"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_thousand_files_with_ten_broken_ones(
    mlkit: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    many(tmp_path / "many", suffix)
    done = mlkit(*line.split(), "--quiet", "--json")
    assert done.code == 3
    broken = {f"many/{number:04d}{suffix}" for number in range(50, 1000, 100)}
    assert set(json.loads(done.out)["failures"]) == broken
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 990
