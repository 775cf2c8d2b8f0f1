from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlkit.core.errors import DataError
from mlkit.core.files import check_writable, replacing, sha256, write_text


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_finished_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert len(list(path.parent.iterdir())) == 1
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))


def test_a_full_disk_is_a_data_error(tmp_path: Path) -> None:
    def full() -> None:
        with replacing(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        full()
    assert list(tmp_path.iterdir()) == []


def test_check_writable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    check_writable(tmp_path / "new" / "deeper" / "f")
    check_writable(file)
    with pytest.raises(DataError, match="exists already"):
        check_writable(file, overwrite=False)
    with pytest.raises(DataError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        check_writable(file / "below")


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
