"""The house rules: imports go down, every package is shipped, nothing is named twice."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from mlkit.cli import app
from mlkit.tasks import METHODS, Method

from .reliability.workshop import JOBS

ROOT = Path(__file__).parents[1]
LAYERS = ("core", "tasks", "cli")  # each may import those before it


def modules() -> Iterator[Path]:
    for layer in LAYERS:
        yield from sorted((ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of everything a module imports, as seen from the package root."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(node.module.split(".")) if node.module else ()
            if node.level == 0:
                yield names
            else:
                yield ("mlkit", *package[: len(package) - node.level + 1], *names)


def is_root(path: Path) -> bool:
    return path.is_relative_to(ROOT / "core" / "_mlkit")


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    if is_root(path):
        return
    layer, *rest = path.relative_to(ROOT).parts
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name in imports(path):
        assert name[:1] not in {(other,) for other in LAYERS}, f"{name} must be relative"
        if name[0] == "mlkit" and len(name) > 1:
            assert name[1] in allowed
            if layer == name[1] == "tasks" and len(name) > 2 and len(rest) > 1:
                assert name[2] == rest[0], "a task knows no other task"
        if layer != "cli":
            assert name[0] not in ("typer", "rich")


def test_all_packages_are_listed_and_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"mlkit"}
    for layer in LAYERS:
        for init in (ROOT / layer).rglob("__init__.py"):
            if not is_root(init):
                found.add(".".join(("mlkit", *init.relative_to(ROOT).parts[:-1])))
    assert set(settings["packages"]) == found


def test_no_function_prints_outside_the_command_line() -> None:
    for path in modules():
        if path.is_relative_to(ROOT / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), path  # type: ignore[attr-defined]


def test_help_needs_neither_torch_nor_numpy() -> None:
    """All in one process, which must not have imported anything heavy at the end."""
    words = [[row.name] for row in app.COMMANDS]
    words += [[group, row.name] for group, rows, *_ in app.GROUPS for row in rows]
    words += [[group] for group, *_ in app.GROUPS]
    commands = [["--help"], ["list"], *([*line, "--help"] for line in words)]
    code = (
        "import sys\n"
        "from mlkit.cli.app import main\n"
        f"codes = [main(line) for line in {commands!r}]\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'PIL', 'polars'} & set(sys.modules)\n"
        "print('heavy:', heavy, 'codes:', codes, file=sys.stderr)\n"
        "sys.exit(any(codes) or bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_is_in_every_table(method: Method) -> None:
    name = method.name
    package = import_module(f"mlkit.tasks.{method.package}")
    assert callable(package.demo)
    rows = [row.name for row in app.COMMANDS] + [group for group, *_ in app.GROUPS]
    assert name in rows, "cli/app.py"
    assert name in JOBS, "tests/reliability/workshop.py"
    home = method.package.split(".")[0]
    for path in (f"tasks/{home}/README.md", f"tests/cli/test_{name}.py", f"examples/{name}.sh"):
        assert (ROOT / path).is_file(), path
    for page in ("README.md", "CHANGELOG.md"):
        assert f"`mlkit {name}" in (ROOT / page).read_text(), page


def test_the_table_of_methods_is_complete() -> None:
    listed = [method.name for method in METHODS]
    assert sorted(JOBS) == sorted(listed)
    main = [row.name for row in app.COMMANDS if row.panel == app.METHODS]
    assert set(main) <= set(listed)
    trained = [row.name for group, rows, *_ in app.GROUPS if group == "train" for row in rows]
    assert {name for name, job in JOBS.items() if job.train} <= set(trained)
