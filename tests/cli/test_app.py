from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mlkit.cli import app
from mlkit.cli.lazy import Row

Mlkit = Callable[..., Any]
ROWS: list[tuple[tuple[str, ...], Row]] = [
    *(((row.name,), row) for row in app.COMMANDS),
    *(((group, row.name), row) for group, rows, *_ in app.GROUPS for row in rows),
]


@pytest.mark.parametrize(("words", "row"), ROWS, ids=lambda v: "-".join(v) if len(v) < 3 else "")
def test_every_help_has_examples_and_fits_80_columns(
    mlkit: Mlkit, words: tuple[str, ...], row: Row
) -> None:
    result = mlkit(*words, "--help")
    assert result.code == 0
    assert result.out.count(f"mlkit {' '.join(words)}") >= 3  # the usage line and two examples
    assert max(len(line) for line in result.out.splitlines()) <= 80


@pytest.mark.parametrize(
    "words", [words for words, row in ROWS if row.panel == app.METHODS], ids="-".join
)
def test_methods_show_at_most_twelve_options_of_their_own(
    mlkit: Mlkit, words: tuple[str, ...]
) -> None:
    text = mlkit(*words, "--help").out
    own = 0
    for panel in text.split("╭─ ")[1:]:
        if panel.startswith(("Options", "Model")):
            own += sum("│ --" in line and "--help" not in line for line in panel.splitlines())
    assert own <= 12


def test_the_same_option_reads_the_same_everywhere() -> None:
    """One field name has one set of flags in one panel, in whichever method it occurs."""
    from mlkit.core.config import Config, flag_of

    for _, row in ROWS:
        import_module(f"mlkit.cli.{row.target.partition(':')[0]}")
    looks: dict[str, set[tuple[tuple[str, ...], str]]] = {}
    for model in subclasses(Config):
        for field in model.model_fields:
            flag = flag_of(model, field)
            if not flag.argument and model.__module__.startswith("mlkit."):
                looks.setdefault(field, set()).add((flag.names, flag.panel))
    assert looks["out"] == {(("--out", "-o"), "Output")}
    assert looks["seed"] == {(("--seed",), "Run")}
    for field in ("overwrite", "resume", "json_output", "weights", "preset", "plot"):
        assert len(looks[field]) == 1, (field, looks[field])


def subclasses(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["prun"], 2, "Did you mean 'prune'?"),
        (["prune", "--sparsty", "0.1"], 2, "--sparsity"),
        (["prune", "--sparsity", "1.0"], 2, "--sparsity 1.0: input should be less than 1"),
        (["prune", "--sparsity", "-0.1"], 2, "--sparsity -0.1: input should be greater"),
        (["prune", "--sparsity", "half"], 2, "--sparsity"),
        (["prune", "--preset", "slow"], 2, "quick"),
        (["prune", "--model", "resnet5o"], 2, "resnet50"),
        (["prune", "--data-free", "--images", "x"], 2, "exclude each other"),
        (["prune", "--model", "resnet18", "--factory", "a:b"], 2, "exclude each other"),
        (["prune", "-o", "model.pth"], 2, "must end in .safetensors"),
        (["prune", "--model", "resnet18", "--weights", "none.pth"], 4, "none.pth does not exist"),
        (["prune", "--model", "squeezenet1_0", "--random-init"], 3, "no BatchNorm"),
        (["prune", "--min-channels", "99"], 3, "nothing to prune"),
        (["prune", "--images", "nowhere"], 3, "nowhere does not exist"),
        (["prune", "--eval", "nowhere"], 3, "nowhere does not exist"),
        (["prune", "--resume", "nowhere"], 4, "nothing to resume"),
        (["prune", "--config", "none.toml"], 3, "none.toml"),
        (["prune", "--device", "cuda:99"], 5, "cuda:99"),
        (["prune", "--device", "tpu"], 2, "--device tpu"),
        (["prune", "-o", "/proc/none/m.safetensors"], 3, "cannot write"),
        (["info", "none.safetensors"], 4, "does not exist"),
        (["export", "none.safetensors"], 4, "does not exist"),
        (["check", "prune", "nowhere"], 3, "nowhere does not exist"),
        (["eval", "prune"], 2, "--weights: missing"),
        (["train", "prune", "nowhere"], 3, "nowhere does not exist"),
        (["train", "prune"], 2, "DATA: missing"),
        (["demo", "nothing"], 2, "prune"),
    ],
)
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []
    again = mlkit(*arguments, "--json")
    assert again.code == code
    document = json.loads(again.out)
    assert set(document) == {"schema", "command", "error"}
    assert set(document["error"]) == {"kind", "message", "hint"}


def test_a_bug_of_ours_is_exit_1_and_debug_shows_it(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> dict[str, str]:
        raise RuntimeError("oops")

    monkeypatch.setattr("mlkit.core.results.versions", bug)
    result = mlkit("env")
    assert result.code == 1
    assert "internal error: RuntimeError: oops" in result.err
    monkeypatch.setenv("MLKIT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="oops"):
        mlkit("env")


def test_the_demo_of_all_methods_leaves_one_page(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlkit.cli import workflow

    quick = [method for method in workflow.METHODS if method.name in ("transcribe", "upscale")]
    monkeypatch.setattr(workflow, "METHODS", quick)
    (tmp_path / "upscale").mkdir()
    (tmp_path / "upscale" / "report.html").touch()
    result = mlkit("demo", "-o", tmp_path, "--json")
    assert result.code == 3, (
        result.err
    )  # a report was in the way; the other method ran all the same
    document = json.loads(result.out)
    assert set(document["metrics"]) == {"transcribe"}
    result = mlkit("demo", "-o", tmp_path, "--overwrite", "--json")
    assert result.code == 0, result.err
    page = Path(json.loads(result.out)["outputs"]["report"]).read_text()
    for name in ("transcribe", "upscale"):
        assert f'<section id="{name}">' in page
    assert page.count("data:image/png;base64,") >= 2


def test_ctrl_c_ends_the_demo_of_all_methods(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlkit.cli import workflow
    from mlkit.core.errors import InterruptedRun

    def stop(package: str, *_: Any) -> None:
        begun.append(package)
        raise InterruptedRun("interrupted")

    begun: list[str] = []
    monkeypatch.setattr(workflow, "_demo_of_one", stop)
    assert mlkit("demo", "-o", tmp_path).code == 130
    assert len(begun) == 1


def test_what_the_system_says_of_a_file_is_no_bug_of_ours(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.cli import workflow

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "secret.bin")

    monkeypatch.setattr(workflow, "env", refuse)
    result = mlkit("env")
    assert result.code == 3
    assert result.err == "error: cannot use 'secret.bin': Permission denied\n"
    result = mlkit("env", "--json")
    assert json.loads(result.out)["error"]["kind"] == "data"


def test_a_missing_extra_names_its_install_line(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from .test_prune import WEIGHTS

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = mlkit("export", WEIGHTS, "-o", tmp_path / "model.onnx")
    assert result.code == 6
    assert "pip install '.[export]'" in result.err


def test_list_info_env_are_json_documents(mlkit: Mlkit) -> None:
    from .test_prune import WEIGHTS

    for arguments in (["list"], ["list", "--models"], ["env"], ["info", WEIGHTS]):
        document = json.loads(mlkit(*arguments, "--json").out)
        assert set(document) == {
            "schema",
            "command",
            "inputs",
            "outputs",
            "metrics",
            "failures",
            "seconds",
            "versions",
        }
    assert document["metrics"]["method"] == "prune"
    assert "fashion_resnet14" in mlkit("info", WEIGHTS).out


def run(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_the_module_and_the_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_text_without_colour(variable: dict[str, str]) -> None:
    environment = {**os.environ, "FORCE_COLOR": "", **variable}
    done = run("--help", env=environment)
    assert "\x1b[" not in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m mlkit list --models | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"


def test_completion_knows_commands_and_options() -> None:
    environment = {
        **os.environ,
        "_MLKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": "mlkit prune --spars",
        "COMP_CWORD": "2",
    }
    script = "import sys; from mlkit.cli.app import main; sys.argv = ['mlkit']; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert "--sparsity" in done.stdout
