from __future__ import annotations

import math

import pytest

from mlkit.core.errors import UsageError
from mlkit.tasks.upscale.cascade import stages, target_size


@pytest.mark.parametrize(
    ("scale", "known", "wanted"),
    [
        (2, (2,), (2,)),
        (2, (2, 3, 4), (2,)),
        (2.5, (2, 3, 4), (3,)),
        (3, (2,), (2, 2)),
        (4, (2, 3, 4), (4,)),
        (4, (2, 3), (2, 2)),
        (5, (2, 3, 4), (3, 2)),
        (6, (2, 3, 4), (3, 2)),
        (7.9, (2, 3, 4), (4, 2)),
        (16, (2,), (2, 2, 2, 2)),
        (1.2, (2,), (2,)),
    ],
)
def test_the_least_product_that_suffices(
    scale: float, known: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    found = stages(scale, known)
    assert found == wanted
    assert scale <= math.prod(found) < 2 * scale


def test_scales_that_weights_do_not_know() -> None:
    with pytest.raises(UsageError, match="trained for x4"):
        stages(2, (4,))
    with pytest.raises(UsageError, match="trained for x2"):
        stages(17, (2,))


def test_sizes_are_rounded() -> None:
    assert target_size(33, 40, 2.5) == (82, 100)
    assert target_size(33, 40, 2) == (66, 80)
