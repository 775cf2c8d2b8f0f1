"""Writing files so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from .errors import DataError, UsageError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    The temporary file keeps the suffix of `path`, because writers choose formats by it.
    Raises `DataError` when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=f".part{path.suffix}", dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # mkstemp makes private files; a result should be as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}",
            "choose another place with --out, or free some space",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` in one step, as UTF-8."""
    write_bytes(path, text.encode())


def check_writable(path: str | Path, overwrite: bool = True) -> None:
    """Fail now, not after an hour of work, when `path` could not be written later."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder", "give a file name with --out")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists already", "pass --overwrite, or another name with --out")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise DataError(f"cannot write {path}: {folder} is not a folder", "choose another --out")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror} ({folder})", "choose another --out"
        ) from error


class Hold:
    """A folder that no other process may write a run into, until this object is forgotten.

    The lock ends with the process, however that ends. Raises `UsageError` when another process
    has it; within one process a folder can be held several times.
    """

    _held: ClassVar[weakref.WeakValueDictionary[Path, Hold]] = weakref.WeakValueDictionary()

    def __new__(cls, folder: Path) -> Hold:
        """Return the hold that this process has on `folder` already, or a new one."""
        place = folder.resolve()
        hold = cls._held.get(place)
        if hold is None:
            hold = super().__new__(cls)
            handle = os.open(place, os.O_RDONLY)
            weakref.finalize(hold, os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{folder} is in use by another run", "wait for it, or name another folder"
                ) from error
            except OSError:  # a file system without locks
                pass
            cls._held[place] = hold
        return hold


def sha256(path: str | Path) -> str:
    """Return the SHA-256 digest of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
