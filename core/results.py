"""What a method returns: a frozen record that the command line can print in any form."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text to be shown side by side; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of a method read, wrote and measured.

    `inputs`, `outputs` and `metrics` hold plain JSON values only. `tables` and `notes` are for
    people; `failures` maps an input that could not be used to the reason. `stream` is the file
    itself where the user asked for it on standard output (`-o -`).
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    stream: bytes | None = field(default=None, repr=False)


def versions() -> dict[str, str]:
    """Return the versions of mlkit, Python and the libraries that decide numbers."""
    found = {"python": platform.python_version()}
    for package in ("mlkit", "torch", "torchvision", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def human_count(value: float, unit: str = "") -> str:
    """Write a count with three digits and a metric prefix: 11689512 -> '11.7 M'."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def human_bytes(value: float) -> str:
    """Write a size in decimal bytes: 1520000 -> '1.52 MB'."""
    return human_count(value, "B")
