"""Commands whose modules load at first use: `mlkit --help` needs neither torch nor numpy."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

HELP = {"help_option_names": ["-h", "--help"]}


class Row(NamedTuple):
    """A row of the command table; `target` is "module:function" inside `mlkit.cli`."""

    name: str
    target: str
    summary: str
    panel: str


class Lazy(TyperCommand):
    """Stands in the table for a command until somebody asks for it."""

    def __init__(self, row: Row) -> None:
        super().__init__(name=row.name, help=row.summary, rich_help_panel=row.panel)
        self.row = row

    def load(self) -> Any:
        """Import the command's module and build the real command."""
        from .options import configured

        module, _, attribute = self.row.target.partition(":")
        function = getattr(import_module(f".{module}", __package__), attribute)
        single = typer.Typer(
            add_completion=False, context_settings=HELP, rich_markup_mode="markdown"
        )
        single.command(self.row.name)(configured(function, self.row.name))
        return get_command(single)


class LazyGroup(TyperGroup):
    """A group whose commands come from `rows`."""

    rows: tuple[Row, ...] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for row in self.rows:
            self.add_command(Lazy(row))

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the table's rows first, then the groups: help shows panels in this order."""
        names = [row.name for row in self.rows]
        return names + [name for name in super().list_commands(ctx) if name not in names]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command in the place of its stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Lazy) else command, rest


def group(*rows: Row) -> type[LazyGroup]:
    """Return a group class with these rows."""
    return type("Group", (LazyGroup,), {"rows": rows})
