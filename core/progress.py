"""Where a running method reports to: a sink of events, silent unless somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work with a known or unknown number of steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report `steps` more steps done; `note` is a short text such as 'loss 0.31'."""


class Progress(Protocol):
    """Receives what happens while a method runs."""

    def task(self, title: str, total: int | None = None) -> AbstractContextManager[Task]:
        """Open a piece of work of `total` steps (None: unknown)."""

    def info(self, message: str) -> None:
        """Say something that the user may like to know."""

    def warn(self, message: str) -> None:
        """Say something that the user should know."""


class Silent:
    """A sink that shows nothing and remembers the warnings (for tests and for libraries)."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Open a piece of work that nobody watches."""
        yield _SilentTask()

    def info(self, message: str) -> None:
        """Drop the message."""

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass
