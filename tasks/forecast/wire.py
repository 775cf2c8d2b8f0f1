"""Messages between coordinator and joiners: safetensors bytes, a JSON head in their metadata.

No pickle, no generated code: gRPC carries the bytes as they are. Whatever a message lacks or
distorts is a `DataError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError

VERSION = 1
SERVICE = "mlkit.Forecast"
METHOD = "Session"
KEY = "mlkit"
MAX_BYTES = 256 * 2**20  # of one message, both ways
HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Message:
    """One message: what it is, its number, plain values, tensors for all and for each node.

    `nodes` tensors have one row per node of the receiver (or sender), `tensors` go to every node.
    """

    kind: str
    number: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: dict[str, Tensor] = field(default_factory=dict)


def pack(message: Message) -> bytes:
    """Return the bytes of a message."""
    from safetensors.torch import save

    head = {
        "version": VERSION,
        "kind": message.kind,
        "number": message.number,
        "values": message.values,
    }
    flat = {f"t.{name}": t for name, t in message.tensors.items()}
    flat |= {f"n.{name}": t for name, t in message.nodes.items()}
    plain = {name: t.detach().cpu().contiguous() for name, t in flat.items()}
    return save(plain, metadata={KEY: json.dumps(head)})


def unpack(data: bytes) -> Message:
    """Return the message in some bytes. Raises `DataError` when they are none of ours."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        head = json.loads(_metadata(data)[KEY])
        version = head["version"]
        if version != VERSION:
            raise DataError(
                f"the other side speaks protocol {version}, this mlkit {VERSION}",
                "install the same mlkit on both",
            )
        tensors = load(data)
        kind, number, values = str(head["kind"]), int(head["number"]), dict(head["values"])
    except (SafetensorError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"a message could not be read ({error})") from error
    shared = {name[2:]: t for name, t in tensors.items() if name.startswith("t.")}
    nodes = {name[2:]: t for name, t in tensors.items() if name.startswith("n.")}
    return Message(kind, number, values, shared, nodes)


def _metadata(data: bytes) -> Mapping[str, str]:
    """Return the metadata in the head of safetensors bytes: a length, then JSON."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= min(HEADER_BYTES, len(data) - 8):
        raise ValueError("no safetensors")
    found = json.loads(data[8 : 8 + size])["__metadata__"]
    if not isinstance(found, dict):
        raise ValueError("no metadata")
    return found


def check_rows(tensors: Mapping[str, Tensor], count: int) -> None:
    """Raise `DataError` unless every tensor is of numbers and has one row per node."""
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or len(tensor) != count:
            raise DataError(f"'{name}' has shape {tuple(tensor.shape)} for {count} nodes")
        if tensor.dtype not in (torch.float32, torch.float64, torch.int64):
            raise DataError(f"'{name}' is of type {tensor.dtype}")
