"""What the user sees: results on stdout, everything else on stderr, errors in one or two lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..core.errors import InterruptedRun, MlkitError, UsageError
from ..core.progress import Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars

    from ..core.results import Result, Table

SCHEMA = 1
QUIET_LINE_S = 30.0  # without a terminal, progress is a line this often


class Session:
    """One command: receives progress, prints the result, and turns failures into JSON if asked."""

    def __init__(
        self, command: str, as_json: bool, quiet: bool, verbose: bool, command_line: str
    ) -> None:
        self.command, self.command_line = command, command_line
        # Under torchrun one process speaks for all.
        self.is_main = os.environ.get("RANK", "0") == "0"
        self.as_json, self.quiet, self.verbose = as_json, quiet or not self.is_main, verbose
        self._begin = time.monotonic()
        self._bars: RichBars | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if isinstance(error, MlkitError) and self.as_json and error.message:
            print_json_error(self.command, error.kind, error.message, error.hint)
            error.hint, error.message = "", ""  # said already

    def check_stream(self) -> None:
        """Refuse `-o -` where nobody could use what it writes. Raises `UsageError`."""
        if self.as_json:
            raise UsageError("--json and -o - both want standard output", "give -o a file name")
        if sys.stdout.isatty():
            raise UsageError(
                "-o - would write a file to the terminal", "pipe it on, or give -o a file name"
            )

    # --- the sink that methods report to ---

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Show a bar on a terminal, a line now and then elsewhere, nothing with --quiet."""
        if self.quiet:
            yield _Nothing()
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            bars = self._rich_bars()
            number = bars.add_task(title, total=total, note="")
            yield _Bar(bars, number)
            bars.remove_task(number)
        else:
            yield _Lines(title, total)

    def info(self, message: str) -> None:
        """Print a remark to stderr, with --verbose or when a setting was changed."""
        if self.verbose or message.startswith("changed:"):
            self._say(message)

    def warn(self, message: str) -> None:
        """Print a warning to stderr."""
        self._say(f"warning: {message}")

    def _say(self, message: str) -> None:
        if not self.quiet:
            stderr().print(message, markup=False, highlight=False, soft_wrap=True)

    def _rich_bars(self) -> RichBars:
        if self._bars is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeRemainingColumn as Remaining

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                Remaining(),
                TextColumn("{task.fields[note]}"),
                console=stderr(),
                transient=True,
            )
            self._bars.start()
        return self._bars

    # --- the end ---

    def finish(self, result: Result) -> None:
        """Print the result: one JSON document, or tables for people. Exits 3 on failed inputs."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if not self.is_main:
            return
        if result.stream is not None:
            self._stream(result.stream, result.notes)
        elif self.as_json:
            from ..core.results import versions

            document = {
                "schema": SCHEMA,
                "command": self.command_line,
                "inputs": result.inputs,
                "outputs": result.outputs,
                "metrics": result.metrics,
                "failures": result.failures,
                "seconds": round(time.monotonic() - self._begin, 3),
                "versions": versions(),
            }
            print(json.dumps(document, indent=1, allow_nan=False))
        else:
            self._show(result)
        if result.failures:
            reason = next(iter(result.failures.values()))
            said = f"{len(result.failures)} inputs failed; the first: {reason}"
            raise MlkitError("" if self.as_json else said)  # the document lists them

    def _stream(self, data: bytes, notes: Iterable[str]) -> None:
        """Write the file itself to stdout, and what there is to say about it to stderr."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        for note in notes:
            self._say(note)

    def _show(self, result: Result) -> None:
        console = stdout()
        for table in result.tables:
            console.print(rich_table(table))
        for note in () if self.quiet else result.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        for name, path in result.outputs.items():
            console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)


class _Nothing:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class _Bar:
    def __init__(self, bars: RichBars, number: Any) -> None:
        self.bars, self.number = bars, number

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.bars.update(self.number, advance=steps, note=note)


class _Lines:
    """A line at every tenth of the work, or every half minute, with the time left."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.done, self.shown = 0, 0
        self.begin = self.last = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        tenth = 10 * self.done // self.total if self.total else 0
        if now - self.begin < 2 or (tenth == self.shown and now - self.last < QUIET_LINE_S):
            return
        self.shown, self.last = tenth, now
        left = ""
        if self.total:
            seconds = (now - self.begin) / self.done * (self.total - self.done)
            left = f" of {self.total}, {seconds:.0f} s left"
        print(f"{self.title}: {self.done}{left} {note}".rstrip(), file=sys.stderr, flush=True)


def rich_table(table: Table) -> Any:
    """Return a rich table; columns of numbers are right-aligned."""
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(table.columns):
        numeric = i > 0 and all(row[i][:1] in set("0123456789-+.") for row in table.rows)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def stdout() -> Console:
    """Return the console for results."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    """Return the console for everything else."""
    from rich.console import Console

    return Console(file=sys.stderr)


def print_json_error(command: str, kind: str, message: str, hint: str) -> None:
    """Print the JSON document of a failure to stdout."""
    error = {"kind": kind, "message": message, "hint": hint}
    print(json.dumps({"schema": SCHEMA, "command": f"mlkit {command}", "error": error}, indent=1))


def print_error(error: MlkitError) -> None:
    """Print a failure to stderr: what happened, and what to do about it."""
    if not error.message:
        return
    word = "" if isinstance(error, InterruptedRun) else "error: "
    stderr().print(f"{word}{error.message}", markup=False, highlight=False, soft_wrap=True)
    if error.hint:
        stderr().print(f"  {error.hint}", markup=False, highlight=False, soft_wrap=True)
