"""The checkpoint format: one safetensors file whose metadata says what it is.

Everything an mlkit file holds besides tensors is one JSON document in the safetensors
metadata, under the key "mlkit". Nothing is ever unpickled; foreign `.pth` files go through
`torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError
from .files import replacing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCHEMA = 1
KEY = "mlkit"
MAX_BYTES = 64 * 2**30


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself.

    `kind` is what the tensors are ("model", "training state", "images"); `content` is the
    method's own part: configuration, architecture, plan, metrics.
    """

    method: str
    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata to `path` in one step.

    The bytes depend on the arguments and library versions alone: no time stamp is stored.
    """
    from safetensors.torch import save_file

    from .results import versions

    document = {
        "schema": SCHEMA,
        "method": metadata.method,
        "kind": metadata.kind,
        "content": metadata.content,
        "versions": metadata.versions or versions(),
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        text = json.dumps(document, allow_nan=False)
        save_file(plain, temporary, metadata={KEY: text})


def read_metadata(path: str | Path) -> Metadata:
    """Return the metadata of an mlkit checkpoint without reading its tensors.

    Raises `CheckpointError` when the file is missing, damaged or not ours.
    """
    document = _header(path).get(KEY)
    if document is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but not an mlkit checkpoint",
            "pass it as --weights together with --model, or give a file that mlkit wrote",
        )
    try:
        values = json.loads(document)
        if values["schema"] > SCHEMA:
            raise CheckpointError(
                f"{path} has format {values['schema']}; this mlkit reads up to {SCHEMA}",
                "install a newer mlkit",
            )
        return Metadata(values["method"], values["kind"], values["content"], values["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its mlkit metadata is damaged ({error})") from error


def load(path: str | Path, method: str, kind: str = "model") -> tuple[dict[str, Tensor], Metadata]:
    """Return the tensors (on the CPU) and the metadata of a checkpoint of `method`.

    Raises `CheckpointError` when it belongs to another method or is of another kind.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    if (metadata.method, metadata.kind) != (method, kind):
        raise CheckpointError(
            f"{path} holds a '{metadata.kind}' of '{metadata.method}', "
            f"not a '{kind}' of '{method}'",
            f"see 'mlkit info {path}'",
        )
    return load_file(path), metadata


def is_checkpoint(path: str | Path) -> bool:
    """Return True for a safetensors file that mlkit wrote."""
    return Path(path).suffix == ".safetensors" and KEY in _header(path)


def _header(path: str | Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    _check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error})", "check that it is complete"
        ) from error


def _check_file(path: str | Path) -> None:
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}", "give the path of a weights file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(
            f"{path} is larger than {MAX_BYTES >> 30} GiB", "is it the right file?"
        )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in any weights file: safetensors, or a torch file of tensors alone.

    Wrappers (`state_dict`, `model`, `model_state`) and the prefix `module.` are removed. Torch
    files are read with `weights_only=True`. Raises `CheckpointError` for anything else.
    """
    import torch

    _check_file(path)
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        _header(path)
        state: Any = load_file(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # random bytes make the unpickler fail in many ways
            reason = str(error).partition("\n")[0][:120] or type(error).__name__
            raise CheckpointError(
                f"{path} is not a file of plain tensors ({reason})",
                "save it with torch.save(model.state_dict(), path), or as safetensors",
            ) from error
    for wrapper in ("state_dict", "model", "model_state"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise CheckpointError(f"{path} holds no state dict", "save model.state_dict() instead")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into `model`, every tensor of it and nothing but it.

    Raises `CheckpointError` that lists the first five keys which do not fit.
    """
    target = model.state_dict()
    counters = {name for name in target if name.endswith("num_batches_tracked")}
    problems = [f"missing {name}" for name in target if name not in state and name not in counters]
    problems += [f"unexpected {name}" for name in state if name not in target]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the model wants {tuple(target[name].shape)}"
        for name in target
        if name in state and state[name].shape != target[name].shape
    ]
    # BatchNorm counts batches, FrozenBatchNorm does not; the count changes no output.
    problems = [item for item in problems if not item.endswith("num_batches_tracked")]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source} does not fit the model: {'; '.join(problems[:5])}{more}",
            "check --model and --num-classes",
        )
    model.load_state_dict(dict(state), strict=False)


def flatten_state(prefix: str, state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Split a nested state (dicts, lists, numbers, tensors) into named tensors and a JSON tree.

    `restore_state` is the inverse. Dict keys that are integers come back as integers.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}

    def walk(path: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            items = [[key, walk(f"{path}.{key}", item)] for key, item in value.items()]
            return {"dict": items}
        if isinstance(value, list | tuple):
            return {"list": [walk(f"{path}.{i}", item) for i, item in enumerate(value)]}
        return {"value": value}

    return tensors, walk(prefix, state)


def restore_state(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Rebuild what `flatten_state` took apart (tuples come back as lists)."""
    kind, content = next(iter(tree.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: restore_state(tensors, item) for key, item in content}
    if kind == "list":
        return [restore_state(tensors, item) for item in content]
    return content
