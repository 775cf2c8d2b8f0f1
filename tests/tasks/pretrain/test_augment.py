from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import functional as theirs

from mlkit.tasks.pretrain import augment
from mlkit.tasks.pretrain.config import AugmentOptions


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(count: int = 3, frames: int = 2, side: int = 20) -> Tensor:
    return torch.rand(count, frames, 3, side, side, generator=seeded(7))


FACTORS = torch.tensor([0.4, 1.0, 1.6])


def test_colours_are_torchvisions() -> None:
    """Its functions take one factor for all; contrast there is per picture, here per clip."""
    x, still = clips(), clips(frames=1)
    turns = torch.tensor([-0.15, 0.0, 0.1])
    for i, (factor, turn) in enumerate(zip(FACTORS.tolist(), turns.tolist(), strict=True)):
        own = augment.brightness(x, FACTORS)[i]
        torch.testing.assert_close(own, theirs.adjust_brightness(x[i], factor))
        own = augment.saturation(x, FACTORS)[i]
        torch.testing.assert_close(own, theirs.adjust_saturation(x[i], factor), atol=2e-4, rtol=0)
        own = augment.contrast(still, FACTORS)[i]
        torch.testing.assert_close(own, theirs.adjust_contrast(still[i], factor), atol=2e-4, rtol=0)
        own = augment.hue(x, turns)[i]
        torch.testing.assert_close(own, theirs.adjust_hue(x[i], turn), atol=1e-5, rtol=0)


def test_contrast_is_around_the_mean_of_the_clip() -> None:
    levels = torch.tensor([0.2, 0.6]).view(1, 2, 1, 1, 1)
    dark_then_light = levels.expand(1, 2, 3, 4, 4)
    found = augment.contrast(dark_then_light, torch.tensor([0.0]))
    torch.testing.assert_close(found, torch.full_like(found, 0.4), atol=1e-3, rtol=0)


def test_blur_is_a_gaussian() -> None:
    x, sigmas = clips(side=40), torch.tensor([0.3, 1.0, 2.0])
    found = augment.blurred(x, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        wanted = gaussian_filter(x[i].double().numpy(), sigma, axes=(2, 3), mode="mirror", radius=6)
        np.testing.assert_allclose(found[i].numpy(), wanted, atol=1e-5)


def test_small_clips_are_blurred_as_much_as_large_ones_for_their_side() -> None:
    only = AugmentOptions(colour=0, grey=0, blur=1, flip=False)
    edge = torch.zeros(64, 1, 3, 224, 224)
    edge[..., 112:] = 1
    small = torch.nn.functional.avg_pool2d(edge.flatten(0, 2), 7).view(64, 1, 3, 32, 32)
    changed = (augment.augment(edge, only, seeded()) - edge).abs().sum((3, 4)) / 224**2
    less = (augment.augment(small, only, seeded()) - small).abs().sum((3, 4)) / 32**2
    assert changed.mean() > 0.003  # two pixels of 224 on either side of the edge
    assert less.mean() < 1.5 * changed.mean()


def test_differences_of_frames() -> None:
    x = clips(1, 3)
    found = augment.differences(x)
    torch.testing.assert_close(found[:, 0], (x[:, 1] - x[:, 0] + 1) / 2)
    torch.testing.assert_close(found[:, 2], found[:, 1])
    still = clips(1, 1)
    assert torch.equal(augment.differences(still), still)


@pytest.mark.parametrize("seed", range(5))
def test_frames_that_are_the_same_stay_the_same(seed: int) -> None:
    still = clips(8, 1).expand(8, 4, 3, 20, 20)
    found = augment.augment(still, AugmentOptions(difference=0.3), seeded(seed))
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_every_clip_is_changed_in_its_own_way() -> None:
    same = clips(1).expand(6, 2, 3, 20, 20)
    found = augment.augment(same, AugmentOptions(), seeded())
    assert len({round(float(clip.double().sum()), 6) for clip in found}) >= 5


def test_nothing_is_changed_when_nothing_is_asked_for() -> None:
    off = AugmentOptions(colour=0, grey=0, blur=0, flip=False)
    x = clips()
    assert torch.equal(augment.augment(x, off, seeded()), x)


def test_mirrored_clips_are_half_of_all() -> None:
    ramp = torch.linspace(0, 1, 8).expand(400, 1, 3, 8, 8)
    only = AugmentOptions(colour=0, grey=0, blur=0)
    mirrored = augment.augment(ramp, only, seeded())[:, 0, 0, 0, 0] > 0.5
    assert 160 < int(mirrored.sum()) < 240


def test_boxes_have_the_area_and_aspect_that_were_asked_for() -> None:
    generator, areas, aspects = seeded(), [], []
    for _ in range(2000):
        top, left, height, width = augment.draw_box(400, 500, (0.2, 0.7), generator)
        assert 0 <= top <= 400 - height
        assert 0 <= left <= 500 - width
        areas.append(height * width / 200_000)
        aspects.append(width / height)
    assert min(areas) > 0.195
    assert max(areas) < 0.705
    assert 0.74 < min(aspects) < 0.76
    assert 1.32 < max(aspects) < 1.34
    assert np.mean(areas) == pytest.approx(0.44, abs=0.02)  # less: few large ones fit


def test_a_box_that_cannot_fit_becomes_the_largest_middle_one() -> None:
    assert augment.draw_box(100, 10, (0.9, 1.0 - 1e-9), seeded()) == (43, 0, 13, 10)
    assert augment.draw_box(40, 30, (1.0, 1.0), seeded()) == (0, 0, 40, 30)


def test_pressed_pictures_are_cut_by_their_own_aspect() -> None:
    generator = seeded()
    for _ in range(200):
        top, left, height, width = augment.draw_place(48, 24, True, (0.3, 0.9), generator)
        assert top + height <= 48
        assert left + width <= 24
        assert 0.7 < (height / 2) / width < 1.45
    assert augment.draw_place(48, 24, True, (1.0, 1.0), generator) == (0, 0, 48, 24)


def test_normalising_is_the_papers() -> None:
    assert float(augment.normalise(torch.tensor(0.45))) == 0
    assert float(augment.normalise(torch.tensor(0.675))) == pytest.approx(1)
