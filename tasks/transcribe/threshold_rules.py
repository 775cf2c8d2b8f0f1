"""How a threshold is to be found, as the user writes it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """How a threshold is found: "fbeta" (value: beta), "rate", "precision" (value), "fixed"."""

    name: str
    value: float = 2.0


def parse_rule(text: str, beta: float = 2.0) -> Rule:
    """Read auto, fbeta, rate, precision=0.5 or a number. Raises `ValueError` for anything else."""
    name, _, value = text.partition("=")
    if text in ("auto", "fbeta"):
        return Rule("fbeta", beta)
    if text == "rate":
        return Rule("rate")
    number = float(value if name == "precision" else text)
    if not 0 <= number <= 1:
        raise ValueError("must lie between 0 and 1")
    return Rule("precision" if name == "precision" else "fixed", number)
