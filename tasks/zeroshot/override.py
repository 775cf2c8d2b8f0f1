"""The model that scoring options name, with another classifier where they name one."""

from __future__ import annotations

from ...core.errors import UsageError
from .checkpoint import Trained, open_trained
from .config import ScoringOptions


def open_model(options: ScoringOptions) -> Trained:
    """Return the model; with --backbone its graph alone serves, and --rows brings the rows.

    Raises `UsageError` when a classifier is named without rows that were made for it.
    """
    named = options.backbone is not None or options.backbone_weights is not None
    if named and options.rows is None:
        raise UsageError(
            "--backbone goes with --rows: the model's own rows are for its own classifier",
            "give the rows made for it, or fit some with 'mlkit train zeroshot --backbone'",
        )
    return open_trained(options.weights, options.factory, options if named else None)
