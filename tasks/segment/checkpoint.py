"""The file of a trained model: weights, network options, vocabulary, how it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, UsageError
from ...core.progress import Progress
from .config import ModelOptions
from .model import Segmenter
from .text import SPECIAL, Vocabulary

METHOD = "segment"
# Trained on generated shapes (see weights/README.md).
EMBEDDED = Path(__file__).parent / "weights" / "shapes.safetensors"


@dataclass(frozen=True)
class Trained:
    """A model with the words it knows."""

    name: str
    model: Segmenter
    vocabulary: Vocabulary

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.score.weight.device


def save_model(
    path: str | Path, model: Segmenter, vocabulary: Vocabulary, content: dict[str, Any]
) -> None:
    """Write weights, options and words; `content` holds "training", "metrics" and the like."""
    known = {"model": model.options.to_dict(), "words": list(vocabulary.words)}
    checkpoint.save(path, model.state_dict(), Metadata(METHOD, "model", {**content, **known}))


def open_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Return what `save_model` wrote, in eval mode. Raises `CheckpointError` if it disagrees."""
    tensors, metadata = checkpoint.load(path, METHOD)
    try:
        options = ModelOptions.create(**metadata.content["model"])
        words = tuple(str(word) for word in metadata.content["words"])
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{path}: its metadata lacks or distorts {error}") from error
    if words[: len(SPECIAL)] != SPECIAL:
        raise CheckpointError(f"{path}: its words do not begin with {' '.join(SPECIAL)}")
    model = Segmenter(options, len(words))
    checkpoint.load_into(model, tensors, path)
    vocabulary = Vocabulary(words, options.tokenizer)
    return Trained(Path(path).name, model.to(device).eval(), vocabulary)


def open_weights(
    path: Path | None, device: str | torch.device = "cpu", progress: Progress | None = None
) -> Trained:
    """Return the model in `path`, else the embedded one, with a warning of what it knows."""
    if path is None and progress is not None:
        progress.warn(
            "the embedded model knows generated shapes alone, no photographs; "
            "train your own with mlkit train segment, and pass it with --weights"
        )
    return open_trained(path or EMBEDDED, device)


def load(path: str | Path, *, device: str = "cpu") -> Segmenter:
    """Return the network of a file that `mlkit train segment` wrote, in eval mode."""
    return open_trained(path, device).model
