"""mlkit: research methods as one command line and one Python package."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(path: str | Path, **settings: Any) -> Any:
    """Return the model stored in an mlkit checkpoint, ready to run in eval mode.

    `settings` go to the method's own loader (`mlkit.tasks.NAME.load`), for instance
    `device="cuda"`, or `factory=function` for a network that mlkit cannot build by name.
    Raises `CheckpointError` when the file is not an mlkit checkpoint.
    """
    from importlib import import_module

    from .core.checkpoint import read_metadata
    from .core.errors import CheckpointError
    from .tasks import METHODS

    name = read_metadata(path).method
    packages = {method.name: method.package for method in METHODS}
    if name not in packages:
        raise CheckpointError(f"{path} belongs to '{name}', which this mlkit does not know")
    return import_module(f"{__name__}.tasks.{packages[name]}").load(path, **settings)


def __getattr__(name: str) -> Any:
    # Looked up only when asked for: it takes longer than the rest of `mlkit --help`.
    if name == "__version__":
        from importlib.metadata import version

        return version("mlkit")
    raise AttributeError(f"module 'mlkit' has no attribute {name!r}")
