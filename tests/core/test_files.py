from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlkit.core.errors import DataError, UsageError
from mlkit.core.files import Hold, check_writable, replacing, sha256, write_text


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


def held_elsewhere(folder: Path) -> bool:
    """Ask another process whether it may write a run into `folder`."""
    code = (
        "import sys; from pathlib import Path; from mlkit.core.files import Hold\n"
        "try: Hold(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "" or "is in use by another run" in done.stdout
    return bool(done.stdout)


def test_a_folder_is_held_by_one_process_until_it_is_let_go(tmp_path: Path) -> None:
    first, second = Hold(tmp_path), Hold(tmp_path)
    assert first is second
    assert held_elsewhere(tmp_path)
    del first, second
    gc.collect()
    assert not held_elsewhere(tmp_path)


def test_a_folder_held_by_another_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlkit.core.files import Hold\n"
        "hold = Hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="is in use by another run"):
            Hold(tmp_path)
        other.kill()
    Hold(tmp_path)  # the lock ended with the process
