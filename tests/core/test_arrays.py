from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from mlkit.core import arrays
from mlkit.core.arrays import array_bytes, entries, read_array, write_array
from mlkit.core.errors import DataError, MissingExtraError

STACK = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".tiff"])
@pytest.mark.parametrize("array", [STACK, STACK[1]], ids=["stack", "image"])
def test_written_arrays_come_back(tmp_path: Path, suffix: str, array: Any) -> None:
    path = tmp_path / f"a{suffix}"
    write_array(path, array)
    np.testing.assert_array_equal(read_array(path), array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_slices(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", STACK)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", index=1), STACK[1])
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", index=2, axis=1), STACK[:, 2])
    with pytest.raises(DataError, match="no slice 2, it has 2"):
        read_array(tmp_path / "a.npy", index=2)
    with pytest.raises(DataError, match="no slice 0, it has 0"):
        read_array(tmp_path / "a.npy", index=0, axis=3)


def test_foreign_formats(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=STACK, two=STACK[0])
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz", "two"), STACK[0])
    savemat(tmp_path / "a.mat", {"kernel": STACK[0]})
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat"), STACK[0])
    (tmp_path / "a.txt").write_text("# degrees\n0, 1.5\n3 4\n")
    np.testing.assert_array_equal(read_array(tmp_path / "a.txt"), [[0, 1.5], [3, 4]])
    np.save(tmp_path / "big.npy", STACK.astype(">f4"))
    assert read_array(tmp_path / "big.npy").dtype == np.dtype("=f4")
    np.save(tmp_path / "mask.npy", STACK > 3)
    assert read_array(tmp_path / "mask.npy").sum() == 20


def test_bart_files(tmp_path: Path) -> None:
    kspace = (STACK + 1j * STACK[::-1]).astype(np.complex64)
    (tmp_path / "k.hdr").write_text("# Dimensions\n2 3 4 1 1 1\n# Command\n")
    kspace.ravel(order="F").tofile(tmp_path / "k.cfl")
    for name in ("k.cfl", "k.hdr"):
        np.testing.assert_array_equal(read_array(tmp_path / name), kspace)
    (tmp_path / "k.hdr").write_text("# Dimensions\n2 3 5\n")
    with pytest.raises(DataError, match="header says"):
        read_array(tmp_path / "k.cfl")


def test_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = STACK
        file["exchange/theta"] = np.arange(2.0)
    assert entries(tmp_path / "a.h5") == ["exchange/data", "exchange/theta"]
    np.testing.assert_array_equal(read_array(tmp_path / "a.h5", "/exchange/data"), STACK)
    with pytest.raises(DataError, match="several arrays: exchange/data"):
        read_array(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_text("no")
    for function in (read_array, entries):
        with pytest.raises(DataError, match="not a readable"):
            function(tmp_path / "b.h5")
    assert entries(tmp_path / "a.npy") == []
    monkeypatch.setitem(sys.modules, "h5py", None)
    for function in (read_array, entries):
        with pytest.raises(MissingExtraError, match="h5py"):
            function(tmp_path / "a.h5")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(array_bytes(STACK)))
    monkeypatch.setattr("sys.stdin", stdin)
    np.testing.assert_array_equal(read_array("-"), STACK)


def test_bad_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, reason: str, content: bytes | None = None) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=reason) as error:
            read_array(tmp_path / name)
        assert name.split(".")[0] in error.value.message

    refuse("none.npy", "does not exist")
    refuse("lone.cfl", "lone.hdr does not exist", b"")
    refuse("text.npy", "not a readable array", b"hello")
    refuse("text.npz", "not a readable array", b"hello")
    refuse("text.tif", "not a readable array", b"hello")
    refuse("text.mat", "not a readable array", b"hello")
    refuse("words.txt", "not a readable array", b"one two")
    refuse("nothing.txt", "is empty", b"")
    refuse("x.docx", "unknown file type '.docx'", b"")
    (tmp_path / "dir.npy").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_array(tmp_path / "dir.npy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refuse("objects.npy", "not a readable array")
    np.save(tmp_path / "strings.npy", np.array(["a"]))
    refuse("strings.npy", "not numbers")
    np.savez(tmp_path / "two.npz", a=STACK, b=STACK)
    refuse("two.npz", "several arrays: a, b")
    with pytest.raises(DataError, match="has no 'c'; it holds a, b"):
        read_array(tmp_path / "two.npz", "c")
    broken = STACK.copy()
    broken[1, 2, 3] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    refuse("nan.npy", r"1 values that are NaN or infinite, the first at \(1, 2, 3\)")
    np.save(tmp_path / "large.npy", STACK)
    monkeypatch.setattr(arrays, "MAX_BYTES", 10)
    refuse("large.npy", "larger than")
    with pytest.raises(DataError, match=r"cannot write '\.png'"):
        write_array(tmp_path / "a.png", STACK)
