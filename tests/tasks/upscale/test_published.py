"""The layout of the published code, in the three forms that it is met in."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError
from mlkit.tasks.upscale.checkpoint import load_start, save_start
from mlkit.tasks.upscale.model import Network
from mlkit.tasks.upscale.published import read_published

from .helpers import begin, network


def tensorflow_arrays(net: Network) -> dict[str, np.ndarray]:
    """The arrays of a network under TensorFlow's names, kernels as (3, 3, in, out)."""
    arrays = {}
    for name, weight in net.weights().items():
        layer, kind = name.split(".")
        array = weight.detach().numpy()
        if kind == "weight":
            arrays[f"MODEL/{layer}/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            arrays[f"MODEL/{layer}/bias"] = array
    arrays["MODEL/conv1/kernel/Adam_1"] = np.zeros((3, 3, 3, 4), np.float32)
    arrays["global_step"] = np.zeros((), np.float32)
    return arrays


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of a sorted table, with keys that share prefixes, and its trailer."""
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        fresh = key[shared:]
        out += varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        before = key
    return out + struct.pack("<II", 0, 1)


def write_bundle(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write a TensorFlow checkpoint: a table without compression and a file of numbers."""
    numbers, entries = b"", [(b"", b"\x08\x01")]
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], "<f4")
        sizes = b"".join(
            b"\x12" + varint(len(dim)) + dim for n in array.shape for dim in [b"\x08" + varint(n)]
        )
        entry = b"\x08\x01" + b"\x12" + varint(len(sizes)) + sizes
        if numbers:
            entry += b"\x20" + varint(len(numbers))
        entry += b"\x28" + varint(array.nbytes) + b"\x35" + b"\0\0\0\0"
        entries.append((name.encode(), entry))
        numbers += array.tobytes()
    table = block(entries)
    index_at = len(table) + 5
    index = block([(b"\xff", varint(0) + varint(len(table)))])
    meta = varint(0) + varint(0)
    footer = meta + varint(index_at) + varint(len(index))
    data = table + b"\0" * 5 + index + b"\0" * 5
    data += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "Model.index").write_bytes(data)
    (folder / "Model.data-00000-of-00001").write_bytes(numbers)
    return folder / "Model.index"


def test_every_form_gives_the_same_network(tmp_path: Path) -> None:
    net = network(width=5, depth=4)
    arrays = tensorflow_arrays(net)
    np.savez(tmp_path / "m.npz", **{f"{name}:0": array for name, array in arrays.items()})
    state = {name: w.detach() for name, w in net.weights().items()}
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    save_file(state, tmp_path / "plain.safetensors")
    paths = [write_bundle(tmp_path, arrays)]
    paths += [tmp_path / name for name in ("m.npz", "m.pth", "plain.safetensors")]
    for path in paths:
        start = load_start(path)
        assert (start.network.depth, start.aligned, start.scales) == (4, False, (2, 3, 4))
        x = torch.rand(1, 3, 12, 12)
        torch.testing.assert_close(start.network(x), net(x))


def test_ours_come_back_whole(tmp_path: Path) -> None:
    start = begin(
        scales=(2, 2, 3), samplings=("direct",), estimators={"direct.2": torch.ones(4, 3)}
    )
    save_start(tmp_path / "a.safetensors", start, {"metrics": {}})
    again = load_start(tmp_path / "a.safetensors")
    assert (again.scales, again.samplings, again.aligned) == ((2, 3), ("direct",), True)
    assert torch.equal(again.network.log_rates, start.network.log_rates)
    assert torch.equal(again.estimators["direct.2"], torch.ones(4, 3))


def test_damaged_files(tmp_path: Path) -> None:
    index = write_bundle(tmp_path, tensorflow_arrays(network()))
    whole = index.read_bytes()
    for damaged in (b"", whole[:30], whole[:-1] + b"x", whole[40:], b"\x80" * 40 + whole[-48:]):
        index.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"Model\.index"):
            read_published(index)
    index.write_bytes(whole)
    (tmp_path / "Model.data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="damaged"):
        read_published(index)
    (tmp_path / "Model.data-00000-of-00001").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        read_published(index)


def test_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(CheckpointError, match="no weights of this network"):
        load_start(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"not a readable \.npz"):
        load_start(tmp_path / "broken.npz")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_start(tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", **{"conv1/kernel": np.array([{}])})
    with pytest.raises(CheckpointError, match="not a readable"):
        load_start(tmp_path / "objects.npz")
    save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, Metadata("prune", "model"))
    with pytest.raises(CheckpointError, match="'prune'"):
        load_start(tmp_path / "x.safetensors")
    save(tmp_path / "y.safetensors", {"a": torch.ones(1)}, Metadata("upscale", "model"))
    with pytest.raises(CheckpointError, match="damaged"):
        load_start(tmp_path / "y.safetensors")
