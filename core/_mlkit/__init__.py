"""mlkit: research methods as one command line and one Python package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

try:
    __version__ = version("mlkit")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def load(path: str | Path, **settings: Any) -> Any:
    """Return the model stored in an mlkit checkpoint, ready to run in eval mode.

    `settings` go to the method's own loader (`mlkit.tasks.NAME.load`), for instance
    `device="cuda"`, or `factory=function` for a network that mlkit cannot build by name.
    Raises `CheckpointError` when the file is not an mlkit checkpoint.
    """
    from importlib import import_module

    from .core.checkpoint import read_metadata

    method = read_metadata(path).method
    return import_module(f"{__name__}.tasks.{method}").load(path, **settings)
