"""Weights files: what a trained prior is, and how it is to be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core import checkpoint
from ...core.errors import CheckpointError, UsageError
from .model import ConvexRidge, StepRule
from .tuning import Point, strength_and_scale

WEIGHTS = Path(__file__).parent / "weights"
# Two embedded priors, by the noise (grey levels) that they were trained at.
EMBEDDED = {
    5.0: WEIGHTS / "natural_sigma5.safetensors",
    25.0: WEIGHTS / "natural_sigma25.safetensors",
}
ALL_ROUND = 5.0  # the one that serves all noise levels by minimisation

# The tensors of the published code (axgoujon/convex_ridge_regularizers), and ours.
_PUBLISHED = {
    "lmbd": "strength",
    "mu": "scale",
    "L": "lipschitz",
    "activation.coefficients_vect": "coefficients",
}
_PUBLISHED_FILTER = "conv_layer.conv_layers.{}.parametrizations.weight.original"


@dataclass(frozen=True)
class Prior:
    """A trained prior: the network, the denoiser it was trained as, and its tuning.

    `unroll`, `rule` and `sigma` (grey levels) describe the t-step denoiser; 0 is unknown.
    `tuning` holds the lambda ("strength") and mu ("scale") that were best at each "sigma".
    """

    model: ConvexRidge
    unroll: int
    rule: StepRule
    sigma: float
    tuning: list[Point] = field(default_factory=list)

    def parameters(
        self, sigma: float, strength: float | None = None, scale: float | None = None
    ) -> tuple[float, float]:
        """Return lambda and mu for noise of `sigma` grey levels: the given ones, else the tuned.

        Raises `UsageError` when one is needed and the prior was never tuned.
        """
        if not self.tuning and (strength is None or scale is None):
            raise UsageError(
                "these weights were never tuned, so lambda and mu are not known",
                "pass --lambda and --mu, or tune: mlkit train denoise IMAGES --tune-only "
                "--weights FILE -o DIR",
            )
        tuned = strength_and_scale(self.tuning, sigma) if self.tuning else (1.0, 1.0)
        return strength or tuned[0], scale or tuned[1]


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


def load_prior(path: Path) -> Prior:
    """Return the prior in a file of ours, or of the published code (`.pth`).

    Raises `CheckpointError` when it is damaged, or holds something else.
    """
    if path.suffix != ".safetensors" or not checkpoint.is_checkpoint(path):
        return _from_published(checkpoint.read_state_dict(path), path)
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


def embedded_prior(sigma: float, mode: str = "prox") -> Prior:
    """Return the embedded prior that fits the noise `sigma` (grey levels) and the mode."""
    nearest = min(EMBEDDED, key=lambda trained: abs(trained - sigma))
    return _embedded(nearest if mode == "tstep" else ALL_ROUND)


@lru_cache
def _embedded(sigma: float) -> Prior:
    return load_prior(EMBEDDED[sigma])


def _from_published(state: Mapping[str, Tensor], path: Path) -> Prior:
    """Return a prior from the published layout; its t and noise are not in the file."""
    filters: list[Tensor] = []
    while (name := _PUBLISHED_FILTER.format(len(filters))) in state:
        filters.append(state[name])
    known = {*_PUBLISHED, *(_PUBLISHED_FILTER.format(i) for i in range(len(filters)))}
    if known != set(state) or any(weight.ndim != 4 for weight in filters) or not filters:
        odd = sorted(known ^ set(state)) or ["no filters"]
        raise CheckpointError(
            f"{path} is no prior of mlkit or of the published code (see {', '.join(odd[:3])})",
            f"expected: {', '.join(_PUBLISHED)}, {_PUBLISHED_FILTER.format('I')} (out, in, k, k)",
        )
    widths = [len(weight) for weight in filters]
    coefficients = state["activation.coefficients_vect"]
    model = ConvexRidge(widths, filters[0].shape[-1], max(3, coefficients.numel() // widths[-1]))
    renamed = {ours: state[theirs] for theirs, ours in _PUBLISHED.items()}
    renamed["coefficients"] = coefficients.reshape(widths[-1], -1)
    renamed |= {f"filters.{i}": weight for i, weight in enumerate(filters)}
    checkpoint.load_into(model, {**renamed, "image": model.image}, path)
    return Prior(model.eval(), 0, "descent", 0.0)
