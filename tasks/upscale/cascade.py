"""Any scale from the few that a network knows: one enlargement after the other, then a cut back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

from ...core.errors import UsageError

MOST = 4  # stages
_TOO_FAR = 2.0  # times larger than asked for: then the weights are for something else


def stages(scale: float, known: Sequence[int]) -> tuple[int, ...]:
    """Return the whole factors whose product is the least that reaches `scale`.

    Of equal products the one of fewest factors, the largest first. What is too much is taken
    away by bicubic reduction. Raises `UsageError` when the known factors do not suit.
    """
    found: tuple[int, ...] | None = None
    reached = _TOO_FAR * scale
    for count in range(1, MOST + 1):
        for factors in combinations_with_replacement(sorted(set(known)), count):
            total = 1
            for factor in factors:
                total *= factor
            if scale <= total < reached:
                found, reached = factors[::-1], total
    if found is None:
        names = ", ".join(f"x{factor}" for factor in sorted(set(known)))
        raise UsageError(
            f"--scale {scale:g}: these weights were trained for {names}",
            "choose another --scale, or other --weights",
        )
    return found


def target_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the size of the result: `scale` times that of the input, rounded."""
    return round(scale * height), round(scale * width)
