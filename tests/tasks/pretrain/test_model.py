from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mlkit.core.accounting import count_parameters, meta_copy
from mlkit.tasks.pretrain.backbones import Bottleneck, Slow, build_backbone
from mlkit.tasks.pretrain.config import BackboneOptions
from mlkit.tasks.pretrain.model import Classifier, Head


def test_slow_r50_has_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        network = Slow(Bottleneck, (3, 4, 6, 3))
        assert round(count_parameters(network) / 1e6, 1) == 31.6
        maps = network.maps(torch.empty(1, 3, 8, 224, 224))
    assert maps.shape == (1, 2048, 8, 7, 7)


def test_without_time_it_is_a_resnet() -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    flat = resnet50(weights=None).eval()
    network = Slow(Bottleneck, (3, 4, 6, 3), temporal=(1, 1, 1, 1)).eval()
    state = {
        name: tensor[:, :, None] if tensor.dim() == 4 else tensor
        for name, tensor in flat.state_dict().items()
        if not name.startswith("fc.")
    }
    network.load_state_dict(state)
    picture = torch.randn(1, 3, 64, 64)
    flat.fc = nn.Identity()  # type: ignore[assignment]
    with torch.inference_mode():
        found, wanted = network(picture[:, :, None]), flat(picture)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "width", "features", "most"),
    [("tiny", 1.0, 128, 1e6), ("slow_r18", 0.25, 128, 4e6), ("slow_r50", 0.125, 256, 2e6)],
)
def test_backbones_give_features(name: str, width: float, features: int, most: float) -> None:
    network, count = build_backbone(name, width)  # type: ignore[arg-type]
    assert count == features
    assert count_parameters(network) < most
    with torch.inference_mode():
        found = network.eval()(torch.randn(2, 3, 4, 32, 32))
    assert found.shape == (2, features)


@pytest.mark.parametrize(("name", "features"), [("r2plus1d_18", 512), ("s3d", 1024)])
def test_backbones_of_torchvision(name: str, features: int) -> None:
    network, count = build_backbone(name)  # type: ignore[arg-type]
    assert count == features
    found = meta_copy(network).eval()(torch.empty(2, 3, 16, 64, 64, device="meta"))
    assert found.shape == (2, features)


def test_time_is_looked_at() -> None:
    network = build_backbone("tiny", 0.25)[0].eval()
    clip = torch.randn(1, 3, 4, 24, 24)
    shuffled = clip[:, :, [2, 0, 3, 1]]
    with torch.inference_mode():
        assert not torch.allclose(network(clip), network(shuffled), atol=1e-4)


def test_a_head_has_no_bias_before_a_norm() -> None:
    head = Head(6, 5, 4, 3, norm=True)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is None for layer in linear] == [True, True, False]
    assert Head(6, 5, 4, 1, norm=True)(torch.ones(2, 6)).shape == (2, 4)


def states(network: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("adapt", [False, True])
def test_a_frozen_backbone_does_not_change(adapt: bool) -> None:
    options = BackboneOptions(backbone="tiny", width=0.25)
    model = Classifier(options, 3, frozen=True, adapt_norms=adapt).train()
    before = states(model.backbone)
    model(torch.randn(4, 3, 2, 16, 16)).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.head.weight.grad is not None
    same = all(torch.equal(a, b) for a, b in zip(before, states(model.backbone), strict=True))
    assert same != adapt  # the official code lets the norms' statistics follow


def test_a_classifier_that_is_not_frozen_learns_throughout() -> None:
    model = Classifier(BackboneOptions(width=0.25), 3).train()
    model(torch.randn(4, 3, 2, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
