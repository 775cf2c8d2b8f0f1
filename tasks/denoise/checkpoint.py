"""Weights files: what a trained prior is, and how it is to be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core import checkpoint
from ...core.errors import CheckpointError
from .model import ConvexRidge

WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED = WEIGHTS / "natural.safetensors"


@dataclass(frozen=True)
class Prior:
    """A trained prior: the network, the denoiser it was trained as, and its tuning.

    `unroll`, `rule` and `sigma` (grey levels) describe the t-step denoiser; `tuning` is a list
    of {"sigma", "strength", "scale"} (lambda and mu that were best at that noise).
    """

    model: ConvexRidge
    unroll: int
    rule: str
    sigma: float
    tuning: list[dict[str, float]] = field(default_factory=list)


def save_prior(path: Path, prior: Prior, content: Mapping[str, Any]) -> None:
    """Write a prior; `content` is what else there is to say (metrics, config)."""
    about = {
        "model": prior.model.settings,
        "denoiser": {"unroll": prior.unroll, "rule": prior.rule, "sigma": prior.sigma},
        "tuning": prior.tuning,
        **content,
    }
    metadata = checkpoint.Metadata("denoise", "model", about)
    checkpoint.save(path, prior.model.state_dict(), metadata)


def load_prior(path: Path = EMBEDDED) -> Prior:
    """Return the prior in a checkpoint. Raises `CheckpointError` for anything else."""
    tensors, metadata = checkpoint.load(path, "denoise")
    content = metadata.content
    try:
        model, denoiser = ConvexRidge(**content["model"]), content["denoiser"]
        checkpoint.load_into(model, tensors, path)
        return Prior(
            model.eval(),
            denoiser["unroll"],
            denoiser["rule"],
            denoiser["sigma"],
            content.get("tuning", []),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its description of the network is damaged") from error
