"""The files of an encoder and of a fine-tuned classifier, and the official code's weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.config import Config
from ...core.errors import CheckpointError, UsageError
from .augment import normalise
from .backbones import build_backbone
from .config import BackboneOptions, ClipOptions, ReadOptions
from .model import Classifier

METHOD = "pretrain"


@dataclass(frozen=True)
class Trained:
    """A network with what it looks at.

    `network` gives features (B, D), or logits (B, K) where `classes` are known.
    """

    network: nn.Module
    backbone: BackboneOptions
    clip: ClipOptions
    read: ReadOptions
    classes: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """Return what the file says as options of a command."""
        network, clip = self.backbone.model_dump(), self.clip.model_dump()
        return {**network, **clip, "fps": self.read.fps}


def part(config: Config, kind: type[Any]) -> Any:
    """Return the options of `config` that `kind` declares; what was not given stays not given."""
    names = set(kind.model_fields) & config.model_fields_set
    return kind(**{name: getattr(config, name) for name in names})


def describe(config: Config) -> dict[str, Any]:
    """Return what a file must say of its network to be opened again."""
    return {
        "backbone": part(config, BackboneOptions).to_dict(),
        "clip": part(config, ClipOptions).to_dict(),
        "read": {"fps": part(config, ReadOptions).fps},
    }


def save_model(path: str | Path, network: nn.Module, content: dict[str, Any]) -> None:
    """Write weights; `content` holds what `describe` says, "classes" of a classifier, "metrics"."""
    checkpoint.save(path, network.state_dict(), Metadata(METHOD, "model", content))


def open_trained(
    path: Path | None,
    backbone: BackboneOptions,
    clip: ClipOptions,
    read: ReadOptions,
    device: str | torch.device = "cpu",
    random_init: bool = False,
) -> Trained:
    """Return the network of a file, in eval mode, with the clips that it was trained on.

    Options that the user gave win over the file's. `random_init` needs no file. Raises
    `UsageError` without either, `CheckpointError` when the file does not fit.
    """
    if path is None:
        if not random_init:
            raise UsageError(
                "no weights were given", "give --weights FILE, or --random-init as a control"
            )
        network = build_backbone(backbone.backbone, backbone.width)[0]
        return Trained(network.to(device).eval(), backbone, clip, read)
    if not checkpoint.is_checkpoint(path):
        return Trained(_foreign(path, backbone).to(device).eval(), backbone, clip, read)
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        stored = BackboneOptions.create(**metadata.content["backbone"])
        clip = _overlaid(ClipOptions.create(**metadata.content["clip"]), clip)
        read = _overlaid(read.model_copy(update=metadata.content["read"]), read)
        classes = tuple(str(name) for name in metadata.content.get("classes", ()))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    for name in backbone.model_fields_set:
        if getattr(backbone, name) != getattr(stored, name):
            raise CheckpointError(
                f"{path} holds {name} {getattr(stored, name)}, not {getattr(backbone, name)}",
                f"leave --{name} out: the file knows its own",
            )
    return Trained(_build(path, tensors, stored, classes).to(device).eval(), stored, clip, read,
                   classes)  # fmt: skip


def _overlaid(stored: Any, given: Any) -> Any:
    """Return stored options, with those that the user gave in their place."""
    return stored.model_copy(update={k: getattr(given, k) for k in given.model_fields_set})


def _build(
    path: Path, tensors: dict[str, Tensor], options: BackboneOptions, classes: tuple[str, ...]
) -> nn.Module:
    if classes:
        network: nn.Module = Classifier(options, len(classes))
        checkpoint.load_into(network, tensors, path)
        return network
    network = build_backbone(options.backbone, options.width)[0]
    prefix = "backbone."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    checkpoint.load_into(network, own, path)
    return network


# Names in the official code's files (PySlowFast), and in ours.
_RENAMES = (
    (r"^backbone\.", ""),
    (r"^s1\.pathway0_stem\.conv\.", "conv1."),
    (r"^s1\.pathway0_stem\.bn\.", "bn1."),
    (r"^s(\d)\.pathway0_res(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"\.branch1\.", ".downsample.0."),
    (r"\.branch1_bn\.", ".downsample.1."),
    (r"\.branch2\.([abc])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}."),
    (r"\.branch2\.([abc])_bn\.", lambda m: f".bn{'abc'.index(m[1]) + 1}."),
)  # fmt: skip


def _foreign(path: Path, options: BackboneOptions) -> nn.Module:
    """Return a network with weights of PySlowFast, or a plain state dict of ours or torchvision."""
    network = build_backbone(options.backbone, options.width)[0]
    own = network.state_dict()
    state = {}
    for name, tensor in checkpoint.read_state_dict(path).items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        for key in (name, f"body.{name}"):
            if key in own:
                state[key] = tensor
    if not state:
        raise CheckpointError(
            f"{path} holds nothing of a {options.backbone}",
            "name its network with --backbone (slow_r50 for the paper's files)",
        )
    checkpoint.load_into(network, state, path)
    return network


class Ready(nn.Module):
    """Clips of values 0..255 (N, T, H, W, 3) to features, or logits of a classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """Return (N, D) or (N, K)."""
        return self.network(normalise(clips.float() / 255).permute(0, 4, 1, 2, 3))


def load(path: str | Path, *, device: str = "cpu") -> Ready:
    """Return the network of a file that `mlkit pretrain` or `mlkit train pretrain` wrote."""
    options = BackboneOptions(), ClipOptions(), ReadOptions()
    return Ready(open_trained(Path(path), *options, device).network).eval()
