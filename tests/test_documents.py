"""What is written about commands is true of the commands: names, options and values exist."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mlkit.cli import app

from .benchmarks.__main__ import BENCHMARKS
from .experiments.__main__ import EXPERIMENTS

ROOT = Path(__file__).parents[1]
ROWS = [*app.COMMANDS, *(row for _, rows, *_ in app.GROUPS for row in rows)]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "tasks").glob("*/README.md")),
    *sorted((ROOT / "tasks").glob("*/weights/README.md")),
    *sorted((ROOT / "examples").glob("*.sh")),
]
# Something to be filled in, or an explanation beside a command in a list of commands.
PLACEHOLDERS = re.compile(
    r"\bMETHOD\b|\bKIND\b|\.\.\.|\[\[|\$|--config|\s[A-Z]\b|\S {2,}[^#\s]|\s\|\s(?=info|env)"
)
SHELL = {"|", "<", ">", ">>", "&&", "#", ";", "2>"}  # what ends a command


def commands(text: str) -> Iterator[str]:
    """Yield the command lines of a page: those that begin a line of code."""
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        match = re.match(r"\s*(?:\$ )?(?:cat \S+ \| )?(mlkit .*)", line)
        if match and "`" not in line:
            yield match[1]


def mentions(text: str) -> list[str]:
    """Return the commands that prose names between backticks, with or without arguments."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"`(mlkit [^`]+)`", prose)


def words(line: str) -> list[str] | None:
    """Return the arguments of a command line, or None for one with something to be filled in."""
    if PLACEHOLDERS.search(line):
        return None
    found = shlex.split(line, comments=True)
    end = next((i for i, word in enumerate(found) if word in SHELL), len(found))
    return found[1:end] or None


@pytest.fixture
def parse(mlkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Read a command line as mlkit does, down to the validated options, but do not run it."""
    for row in ROWS:
        module, _, name = row.target.partition(":")
        place = import_module(f"mlkit.cli.{module}")

        @functools.wraps(getattr(place, name))
        def idle(*_: Any, **__: Any) -> None:
            pass

        monkeypatch.setattr(place, name, idle)
    return lambda line: mlkit(*(words(line) or ["--version"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_accepted(parse: Callable[[str], Any], page: Path) -> None:
    text = page.read_text()
    for line in commands(text):
        done = parse(line)
        assert done.code == 0, f"{line}\n{done.err}"
    for line in mentions(text):
        check_mention(parse, line)


def check_mention(parse: Callable[[str], Any], line: str) -> None:
    """Accept what a sentence names: a command that exists, with options that it has."""
    line = re.sub(r"(?<=\w)\|[\w|-]+", "", line)  # of alternatives the first
    bare = all(re.fullmatch("[a-z]+(-[a-z]+)*", word) for word in line.split())
    done = parse(f"{line} --help" if bare else line)
    incomplete = ": missing" in done.err or "requires an argument" in done.err
    assert done.code == 0 or incomplete, f"{line}\n{done.err}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.target)
def test_the_examples_of_a_help_text_are_accepted(
    parse: Callable[[str], Any], row: app.Row
) -> None:
    module, _, name = row.target.partition(":")
    text = getattr(import_module(f"mlkit.cli.{module}"), name).__doc__
    lines = mentions(re.sub(r"\s*\n\s*", " ", text))
    examples = [line for line in lines if line.startswith(f"mlkit {spelt(row)}")]
    assert len(examples) >= 2
    for line in examples:
        done = parse(line)
        assert done.code == 0, f"{line}\n{done.err}"
    for line in lines:
        check_mention(parse, line)


def spelt(row: app.Row) -> str:
    """Return the words that call a row of the command table."""
    groups = [name for name, rows, *_ in app.GROUPS if row in rows]
    return " ".join([*groups, row.name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_measurements_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text().replace("\n", " ")
    for name in re.findall(r"tests\.experiments\s+([a-z][a-z0-9-]*)", text):
        assert name in EXPERIMENTS
    for name in re.findall(r"tests\.benchmarks\s+([a-z][a-z0-9-]*)", text):
        assert name in BENCHMARKS


def test_wrong_lines_would_be_found(parse: Callable[[str], Any]) -> None:
    assert parse("mlkit denoise a.png --sgima 5").code == 2
    assert parse("mlkit prune --sparsity 7").code == 2
    page = "```\n$ mlkit list  # all\n```\n`mlkit env --json`, or\n    mlkit info x \\\n  -v\n"
    assert [words(line) for line in commands(page)] == [["list"], ["info", "x", "-v"]]
    assert mentions(page) == ["mlkit env --json"]
