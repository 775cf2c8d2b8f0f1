"""Reading arrays of measurements with validation, and writing them atomically.

Formats: .npy and .npz (nothing is unpickled), .tif stacks, .txt and .csv tables, MATLAB's .mat,
BART's .cfl with .hdr, and HDF5 (.h5, .hdf5, .nxs) where h5py is installed.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, MissingExtraError
from .files import replacing

Array = NDArray[Any]
MAX_BYTES = 32 * 2**30
HDF5 = (".h5", ".hdf5", ".nxs")
WRITTEN = (".npy", ".tif", ".tiff")


def read_array(
    path: str | Path, entry: str | None = None, index: int | None = None, axis: int = 0
) -> Array:
    """Return the array of numbers in a file; `-` reads an .npy from standard input.

    `entry` names the array in a file that holds several; a file with a single one needs none.
    `index` takes one slice along `axis`, without reading the others where the format allows.
    Raises `DataError` when the file is missing, damaged, not of numbers, not finite, or larger
    than 32 GiB, and when there is no such entry or slice.
    """
    try:
        with _opened(path, entry) as source:
            array = np.asarray(source if index is None else _slice(source, path, index, axis))
    except MissingExtraError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{error.filename or path} does not exist") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder", "give a file") from error
    except (OSError, ValueError, KeyError, SyntaxError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable array ({reason})") from error
    return check_numbers(array, str(path))


def check_numbers(array: Array, name: str) -> Array:
    """Return `array` if it holds finite numbers. Raises `DataError` that names the first bad one.

    Booleans become 0 and 1, and what is in another byte order is brought into the machine's.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "uifc":
        raise DataError(f"{name} holds {array.dtype}, not numbers")
    if array.size == 0:
        raise DataError(f"{name} is empty, its shape is {array.shape}")
    # A copy where the file is mapped into memory, which cannot be written to.
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{name} has {int(bad.sum())} values that are NaN or infinite, the first at {first}",
            "mend or mask them first",
        )
    return array


def _slice(array: Any, path: str | Path, index: int, axis: int) -> Any:
    if array.ndim <= axis or not 0 <= index < array.shape[axis]:
        count = array.shape[axis] if array.ndim > axis else 0
        raise DataError(f"{path} has no slice {index}, it has {count} (shape {array.shape})")
    return array[(slice(None),) * axis + (index,)]


@contextmanager
def _opened(path: str | Path, entry: str | None) -> Iterator[Any]:
    """Yield what a file holds as something that can be sliced."""
    if str(path) == "-":
        yield np.load(io.BytesIO(sys.stdin.buffer.read(MAX_BYTES)), allow_pickle=False)
        return
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*_READERS, *HDF5):
        known = " ".join(sorted((*_READERS, *HDF5)))
        raise DataError(f"{path}: unknown file type '{suffix}'", f"known endings: {known}")
    if suffix not in HDF5:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
        yield _READERS[suffix](path, entry)
        return
    with _h5py().File(path, "r") as file:
        yield file[_choose(path, _datasets(file), entry.strip("/") if entry else None)]


def _read_npy(path: Path, entry: str | None) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path, entry: str | None) -> Any:
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
            raise DataError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[_choose(path, list(arrays.files), entry)]


def _read_tiff(path: Path, entry: str | None) -> Any:
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [np.array(frame) for frame in ImageSequence.Iterator(image)]
    if len({frame.shape for frame in frames}) != 1:
        raise DataError(f"{path}: its pages differ in size")
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _read_text(path: Path, entry: str | None) -> Any:
    text = path.read_text().replace(",", " ").replace(";", " ")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        return np.loadtxt(io.StringIO(text), ndmin=1)


def _read_mat(path: Path, entry: str | None) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path)
    except MatReadError as error:
        raise ValueError(str(error)) from error
    except NotImplementedError as error:
        raise ValueError("MATLAB's version 7.3 is HDF5: rename it to .h5") from error
    names = [name for name in variables if not name.startswith("__")]
    return variables[_choose(path, names, entry)]


def _read_cfl(path: Path, entry: str | None) -> Any:
    """Read BART's pair of files: sizes in the header, complex64 in Fortran order beside it."""
    header = path.with_suffix(".hdr").read_text().splitlines()
    lines = [line for line in header if line.strip() and not line.startswith("#")]
    sizes = [int(word) for word in lines[0].split()] if lines else []
    data = np.fromfile(path.with_suffix(".cfl"), "<c8")
    if not sizes or math.prod(sizes) != data.size:
        raise DataError(f"{path}: its header says {sizes}, its length disagrees")
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return data.reshape(sizes, order="F")


_READERS: Mapping[str, Callable[[Path, str | None], Any]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".txt": _read_text,
    ".csv": _read_text,
    ".mat": _read_mat,
    ".cfl": _read_cfl,
    ".hdr": _read_cfl,
}


def _choose(path: Path, names: list[str], entry: str | None) -> str:
    if entry is None and len(names) == 1:
        return names[0]
    if entry in names:
        return str(entry)
    held = ", ".join(names[:8]) or "nothing"
    if entry is None:
        raise DataError(f"{path} holds several arrays: {held}", "name the one you mean")
    raise DataError(f"{path} has no '{entry}'; it holds {held}")


def entries(path: str | Path) -> list[str]:
    """Return the names of the arrays in an HDF5 file, [] for other formats."""
    path = Path(path)
    if path.suffix.lower() not in HDF5 or not path.is_file():
        return []
    try:
        with _h5py().File(path, "r") as file:
            return _datasets(file)
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file ({error})") from error


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtraError("h5py", "hdf5") from error
    return h5py


def _datasets(file: Any) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "nbytes") else None)
    return names


def array_bytes(array: Array) -> bytes:
    """Return the content of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def write_array(path: str | Path, array: Array) -> None:
    """Write an array in one step: .npy as it is, .tif (H, W) or a stack (N, H, W) as float32.

    Raises `DataError` for another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise DataError(f"{path}: cannot write '{path.suffix}'", f"choose {' or '.join(WRITTEN)}")
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npy":
            temporary.write_bytes(array_bytes(array))
        else:
            _write_tiff(temporary, array)


def _write_tiff(path: Path, array: Array) -> None:
    from PIL import Image

    stack = array.astype(np.float32).reshape(-1, *array.shape[-2:])
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(path, save_all=len(pages) > 1, append_images=pages[1:])
