from __future__ import annotations

import pytest
import torch

from mlkit.core.augment import mirrored, shifted


@pytest.mark.parametrize("border", ["edge", "zero"])
def test_shifts_are_crops_of_the_padded_image(border: str) -> None:
    images = torch.randint(1, 256, (40, 3, 5, 6), dtype=torch.uint8)
    mode = "constant" if border == "zero" else "replicate"
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode).byte()
    moved = shifted(images, 2, torch.Generator().manual_seed(0), border)
    places = set()
    for image, source in zip(moved, padded, strict=True):
        crops = {(y, x): source[:, y : y + 5, x : x + 6] for y in range(5) for x in range(5)}
        found = [place for place, crop in crops.items() if torch.equal(crop, image)]
        assert found
        places.add(found[0])
    assert len(places) > 10
    assert moved.dtype == torch.uint8


def test_about_half_is_mirrored_and_nothing_else_happens() -> None:
    images = torch.rand(400, 1, 2, 3)
    turned = mirrored(images, torch.Generator().manual_seed(0))
    flipped = (turned == images.flip(3)).all(3).all(2).all(1)
    assert torch.equal(turned[~flipped], images[~flipped])
    assert 150 < int(flipped.sum()) < 250
