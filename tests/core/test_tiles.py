from __future__ import annotations

import pytest
import torch
from torch import nn

from mlkit.core.tiles import in_tiles


@pytest.mark.parametrize(("height", "width"), [(50, 41), (64, 32), (33, 100), (20, 20)])
def test_tiles_change_nothing(height: int, width: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 5, padding=2)]
    network = nn.Sequential(*layers).double().requires_grad_(False)
    image = torch.rand(2, 2, height, width, dtype=torch.float64)
    found = in_tiles(image, 32, 3, network)
    torch.testing.assert_close(found, network(image), rtol=0, atol=1e-12)


def test_no_tile_is_larger_than_asked_for() -> None:
    sizes = []

    def note(x: torch.Tensor) -> torch.Tensor:
        sizes.append(max(x.shape[-2:]))
        return x

    image = torch.rand(1, 3, 70, 90)
    assert torch.equal(in_tiles(image, 32, 4, note), image)
    assert max(sizes) == 32 + 2 * 4
