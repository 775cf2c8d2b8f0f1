"""Networks of our own: what their parts compute."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from mlkit.core.networks import EfficientNetLite, LiteFeatures


def test_features_are_the_classifiers_own_maps() -> None:
    torch.manual_seed(0)
    classifier, features = EfficientNetLite().eval(), LiteFeatures().eval()
    own = features.state_dict()
    shared = {key: value for key, value in classifier.state_dict().items() if key in own}
    features.load_state_dict(shared)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = features(images)
        last = classifier.features[:17](images)
    assert [tuple(x.shape) for x in maps] == [(1, 40, 8, 12), (1, 112, 4, 6), (1, 320, 2, 3)]
    assert torch.equal(maps[2], last)


def test_fewer_levels_leave_the_rest_out_and_round_sides_up() -> None:
    torch.manual_seed(0)
    features = LiteFeatures(levels=2).eval()
    assert (features.widths, len(features.features)) == ((40, 112), 12)
    images = torch.rand(1, 3, 43, 60)
    with torch.no_grad():
        maps, padded = features(images), features(pad(images, (0, 4, 0, 5)))
    assert [tuple(x.shape[2:]) for x in maps] == [(6, 8), (3, 4)]
    assert all(torch.equal(one, two) for one, two in zip(maps, padded, strict=True))
