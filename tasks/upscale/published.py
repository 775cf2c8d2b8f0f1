"""Reading weights in the layout of the published code (TensorFlow: convN/kernel, HWIO).

Understood: a TensorFlow checkpoint (FILE.index beside FILE.data-00000-of-00001), an .npz of its
arrays, and state dicts of this network (.pth, .safetensors).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.checkpoint import read_state_dict
from ...core.errors import CheckpointError

_NAME = re.compile(r"(?:^|/)conv(\d+)[/.](kernel|weight|w|bias|b)$")
_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_FLOAT32 = 1
MAX_BYTES = 2**28

Field = int | bytes | list[bytes]


def read_published(path: Path) -> dict[str, Tensor]:
    """Return conv1.weight (out, in, 3, 3), conv1.bias, ... of a foreign file.

    Optimiser slots and counters are left out. Raises `CheckpointError` when nothing is found.
    """
    arrays = _read(path)
    state: dict[str, Tensor] = {}
    for name, tensor in arrays.items():
        match = _NAME.search(name.removesuffix(":0"))
        if match is None:
            continue
        if match[2] in ("kernel", "w") and tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)  # HWIO, as TensorFlow has it
        kind = "bias" if match[2] in ("bias", "b") else "weight"
        state[f"conv{match[1]}.{kind}"] = tensor.float().contiguous()
    if "conv1.weight" not in state:
        raise CheckpointError(
            f"{path} holds no weights of this network",
            "expected: convN/kernel (3, 3, in, out) and convN/bias, or convN.weight and .bias",
        )
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".index":
        return dict(_bundle(path))
    if path.suffix != ".npz":
        return read_state_dict(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable .npz file ({error})") from error


# --- TensorFlow's bundle: a sorted table of names, and one file of raw numbers ---


def _bundle(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the float32 tensors of a checkpoint whose table is `path`."""
    data = path.with_suffix(".data-00000-of-00001")
    try:
        if max(path.stat().st_size, data.stat().st_size) > MAX_BYTES:
            raise CheckpointError(f"{data} is larger than {MAX_BYTES:,} bytes")
        table, numbers = path.read_bytes(), data.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    try:
        for key, value in _table(table):
            entry = _message(value)
            if key and entry.get(1) == _FLOAT32:
                begin, size = _number(entry, 4), _number(entry, 5)
                raw = np.frombuffer(numbers, "<f4", size // 4, begin)
                yield key.decode(), torch.from_numpy(raw.copy()).reshape(_shape(entry))
    except (IndexError, ValueError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} is no TensorFlow checkpoint, or damaged") from error


def _shape(entry: Mapping[int, Field]) -> list[int]:
    """Return the sizes in an entry: field 2 holds dimensions (field 2), each with a size (1)."""
    shape = entry.get(2, b"")
    if not isinstance(shape, bytes):
        raise ValueError("a damaged shape")
    dimensions = _message(shape).get(2, [])
    parts = dimensions if isinstance(dimensions, list) else [dimensions]
    return [_number(_message(part), 1) for part in parts if isinstance(part, bytes)]


def _number(fields: Mapping[int, Field], field: int) -> int:
    """Return a whole number; protocol buffers leave out zeros."""
    value = fields.get(field, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted string table without compression."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("no table")
    at = len(data) - _FOOTER
    for _ in range(2):  # the block of meta data is of no interest
        _, at = _varint(data, at)
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
    for _, handle in _block(data, offset, size):
        begin, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
        yield from _block(data, begin, length)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of one block, whose keys share what they begin with."""
    block = data[offset : offset + size]
    if len(block) != size or data[offset + size] != 0:
        raise ValueError("a compressed or truncated block")
    (restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _message(data: bytes) -> dict[int, Field]:
    """Return the fields of a protocol-buffer message: numbers, bytes, or lists of repeated ones."""
    fields: dict[int, Field] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            fields[number], at = _varint(data, at)
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        part, at = data[at : at + size], at + size
        before = fields.get(number)
        if isinstance(before, list):
            before.append(part)
        else:
            fields[number] = [before, part] if isinstance(before, bytes) else part
    return fields
