"""The file of a trained model: weights, tokens, and what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from .config import ModelOptions
from .model import Acoustic, build
from .tokens import Tokens

METHOD = "transcribe"
WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED = WEIGHTS / "digits.safetensors"


@dataclass(frozen=True)
class Trained:
    """A model with its tokens; `content` says how it was made."""

    name: str
    model: Acoustic
    options: ModelOptions
    tokens: Tokens
    content: dict[str, Any]

    def describe(self) -> str:
        """Return in one line what this model knows."""
        symbols = self.tokens.symbols
        what = "words" if self.tokens.units == "word" else "characters"
        shown = " ".join(symbols[:12]) + (" ..." if len(symbols) > 12 else "")
        return (
            f"{self.name} knows {len(symbols)} {what} ({shown.strip()}), hears {self.model.rate} Hz"
        )


def save_model(
    path: str | Path,
    model: Acoustic,
    options: ModelOptions,
    tokens: Tokens,
    content: dict[str, Any],
) -> None:
    """Write a model in one step; `content` is added to what it must hold."""
    document = {
        **content,
        "model": options.to_dict(),
        "tokens": {"units": tokens.units, "symbols": list(tokens.symbols)},
    }
    checkpoint.save(path, model.state_dict(), Metadata(METHOD, "model", document))


def open_trained(path: str | Path | None, device: str | torch.device = "cpu") -> Trained:
    """Return the model in a file, in eval mode; None is the embedded one.

    Raises `CheckpointError` when the file belongs to something else.
    """
    place = EMBEDDED if path is None else Path(path)
    tensors, metadata = checkpoint.load(place, METHOD)
    try:
        options = ModelOptions.create(**metadata.content["model"])
        said = metadata.content["tokens"]
        tokens = Tokens(said["units"], tuple(said["symbols"]))
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{place}: its metadata lacks or distorts {error}") from error
    model = build(options, len(tokens))
    checkpoint.load_into(model, tensors, place)
    name = "the embedded model" if path is None else place.name
    return Trained(name, model.to(device).eval(), options, tokens, metadata.content)


def load(path: str | Path, *, device: str = "cpu") -> Acoustic:
    """Return the network of a file that `mlkit train transcribe` wrote, in eval mode.

    It maps audio (B, N) in [-1, 1] and numbers of samples (B,) to log probabilities (T, B, V) and
    numbers of frames (B,).
    """
    return open_trained(path, device).model
