"""Errors that are the user's to mend: what happened, and what to do about it.

Each class carries the exit code of the command line. Anything else that is raised is a bug
of ours (exit code 1).
"""

from __future__ import annotations


class MlkitError(Exception):
    """An error with a one-line message that names the culprit, and a hint that mends it."""

    exit_code = 3
    kind = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MlkitError):
    """The command line or the configuration is wrong."""

    exit_code = 2
    kind = "usage"


class DataError(MlkitError):
    """An input exists but its content cannot be used, or an output cannot be written."""

    exit_code = 3
    kind = "data"


class DivergedError(DataError):
    """Numbers became infinite or NaN; the last good checkpoint was kept."""

    kind = "diverged"


class CheckpointError(MlkitError):
    """Weights are missing, damaged, or belong to something else."""

    exit_code = 4
    kind = "checkpoint"


class DeviceError(MlkitError):
    """The device does not exist or ran out of memory."""

    exit_code = 5
    kind = "device"


class MissingExtraError(MlkitError):
    """An optional dependency is not installed."""

    exit_code = 6
    kind = "missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}', which is not installed",
            f"install it from the checkout with: pip install '.[{extra}]'",
        )


class InterruptedRun(MlkitError):  # noqa: N818 - not an error of anybody's
    """The user pressed Ctrl-C; the message names the last checkpoint."""

    exit_code = 130
    kind = "interrupted"
