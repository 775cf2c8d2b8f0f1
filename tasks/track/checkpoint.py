"""The file of a trained tracker, and the published checkpoint's layout by a table of names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from .config import ModelOptions
from .model import ColTrack

METHOD = "track"
WEIGHTS = Path(__file__).parent / "weights"
# Of networks that find their objects, and of networks that start at given boxes.
EMBEDDED = {False: WEIGHTS / "people.safetensors", True: WEIGHTS / "boxes.safetensors"}
THRESH = 0.6  # of the paper
COCO_CLASSES = 91  # the published head; its class 0 means nothing, 1 is a pedestrian

# Names of the published code (bytedance/ColTrack) -> ours, in this order.
RENAMES = (
    (r"^dino\.", ""),
    (r"^backbone\.0\.body\.", "pyramid.backbone.body."),
    (r"^input_proj\.", "pyramid.input_proj."),
    (r"^transformer\.level_embed", "pyramid.level_embed"),
    (r"^transformer\.encoder\.", "encoder."),
    (r"^transformer\.(enc_output|enc_output_norm|enc_out_class_embed|enc_out_bbox_embed)\.",
     r"proposal_head.\1."),
    (r"^transformer\.tgt_embed\.", "tgt_embed."),
    (r"^transformer\.decoder\.(bbox|class)_embed\.0\.", r"decoder.\1_embed."),
    (r"^transformer\.decoder\.", "decoder."),
)  # fmt: skip
# Copies of what the heads of layer 0 hold, and parts that the method does not use.
DROPPED = (
    r"^(decoder\.)?(bbox|class)_embed\.\d+\.",
    r"num_batches_tracked$",
    r"^track_embed\.|^post_process|^criterion",
)


@dataclass(frozen=True)
class Trained:
    """A network in eval mode with its options and what its file says."""

    name: str
    model: ColTrack
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> ModelOptions:
        """The network's options."""
        return self.model.options

    @property
    def given(self) -> bool:
        """True when it was trained to start at given boxes."""
        return bool(self.content.get("clips", {}).get("proposals", False))

    @property
    def thresh(self) -> float:
        """The score that did best in validation, or the paper's where there was none."""
        return float(self.content.get("metrics", {}).get("thresh", THRESH))

    def require(self, det: str | None) -> None:
        """Refuse weights trained for given boxes where there are none, and the other way round."""
        if self.given == (det is not None):
            return
        was = "to start at given boxes" if self.given else "to find the objects itself"
        asked, hint = "no --det", "add --det"
        if det:
            asked, hint = "--det", "add --method sort (eval: --methods sort)"
        other = "trained with --proposals" if det else "trained without --proposals"
        raise CheckpointError(
            f"{self.name} was trained {was}, and {asked} was asked for",
            f"leave --weights out, {hint}, or give some {other}",
        )


def save_model(path: str | Path, model: ColTrack, content: dict[str, Any]) -> None:
    """Write the network and its options; `content` has "clips", "training", "metrics"."""
    described = {"model": model.options.to_dict(), **content}
    checkpoint.save(path, model.state_dict(), Metadata(METHOD, "model", described))


def open_trained(
    path: str | Path | None,
    device: str | torch.device = "cpu",
    *,
    given: bool = False,
    **changed: Any,
) -> Trained:
    """Return the network in a file of mlkit or a published .pth.

    None: the embedded one, which starts at `given` boxes or finds its objects itself. `changed`
    options must leave all shapes as they are. Raises `CheckpointError` otherwise.
    """
    path = EMBEDDED[given] if path is None else Path(path)
    if path.suffix != ".safetensors" or not checkpoint.is_checkpoint(path):
        return _open_published(path, device)
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        options = ModelOptions.create(**{**metadata.content["model"], **changed})
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    model = ColTrack(options)
    checkpoint.load_into(model, tensors, path)
    return Trained(path.name, model.to(device).eval(), metadata.content)


def _open_published(path: Path, device: str | torch.device) -> Trained:
    """Return ColTrack from the published checkpoint layout (ResNet-50, four levels)."""
    state = rename(checkpoint.read_state_dict(path))
    model = ColTrack(published_options(state, path))
    own = model.state_dict()
    # Ours, and unused without --det.
    state |= {name: own[name] for name in own if name.startswith("given_")}
    checkpoint.load_into(model, state, path)
    return Trained(path.name, model.to(device).eval())


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published state dict under our names."""
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in RENAMES:
            new = re.sub(pattern, replacement, new)
        if not any(re.search(pattern, new) for pattern in DROPPED):
            renamed[new] = tensor
    return renamed


def published_options(state: Mapping[str, Tensor], path: str | Path) -> ModelOptions:
    """Read the sizes of a published network off its tensors."""
    try:
        queries, dim = state["tgt_embed.weight"].shape
        classes = state["decoder.class_embed.weight"].shape[0]
        levels = state["pyramid.level_embed"].shape[0]
        ffn = state["decoder.layers.0.linear1.weight"].shape[0]
        offsets = {
            part: state[f"{part}.layers.0.{attention}.sampling_offsets.bias"].shape[0]
            for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn"))
        }
    except KeyError as error:
        raise CheckpointError(
            f"{path} is no ColTrack checkpoint: it lacks {error}", "see 'mlkit train track'"
        ) from error
    names = [f"class{number}" for number in range(classes)]
    names[min(1, classes - 1)] = "person"
    layers = {
        part: len({name.split(".")[2] for name in state if name.startswith(f"{part}.layers.")})
        for part in ("encoder", "decoder")
    }
    return ModelOptions(
        backbone="resnet50", dim=dim, heads=8, levels=levels, ffn=ffn, queries=queries,
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        encoder_points=offsets["encoder"] // (8 * levels * 2),
        decoder_points=offsets["decoder"] // (8 * levels * 2),
        bank=3, size=1440, classes=",".join(names),
    )  # fmt: skip


def load(path: str | Path | None = None, *, device: str = "cpu") -> ColTrack:
    """Return the network of a file that `mlkit train track` wrote, in eval mode."""
    return open_trained(path, device).model
