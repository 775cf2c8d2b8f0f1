from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from mlkit.core import zoo
from mlkit.core.errors import CheckpointError, UsageError
from mlkit.core.networks import SmallResNet
from mlkit.tasks.prune.zoo import open_model as open_prune

from ..tasks.prune.helpers import build


def test_unknown_names_get_close_ones() -> None:
    with pytest.raises(UsageError, match="resnet5o") as caught:
        zoo.open_model("resnet5o", None, None, None, False)
    assert "resnet50" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        zoo.check_name("qqqq")
    assert "mlkit list --models" in caught.value.hint


def test_every_name_has_a_recipe_that_is_plain_data() -> None:
    for name in ("resnet50", "inception_v3", "vit_b_16", "ssd300_vgg16", zoo.FASHION):
        recipe = zoo.Recipe(name, None, zoo.input_spec(name))
        assert zoo.Recipe.from_dict(recipe.to_dict()) == recipe
    assert zoo.input_spec("inception_v3").size == 299
    assert zoo.input_spec("ssd300_vgg16").size == 300
    assert zoo.input_spec("ssdlite320_mobilenet_v3_large").size == 320
    assert zoo.input_spec("keypointrcnn_resnet50_fpn").size == 160
    assert zoo.input_spec("fasterrcnn_resnet50_fpn").size == 256


def test_normalisation_is_inverted() -> None:
    spec = zoo.InputSpec()
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(spec.denormalise(spec.normalise(images)), images)


def test_no_network_names_the_file_and_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from urllib.error import URLError

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"resnet18-.*\.pth") as caught:
        zoo.open_model("resnet18", None, None, None, False)
    assert str(tmp_path) in caught.value.hint
    assert "--random-init" in caught.value.hint


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvisions_own_files_load(name: str, tmp_path: Path) -> None:
    if name == "googlenet":  # as published: with auxiliary heads
        from torchvision.models import googlenet

        model = googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    else:
        model = build(name)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    opened, _ = zoo.open_model(name, str(tmp_path / "w.pth"), None, None, False)
    images = torch.randn(2, 3, 64, 64)
    if name == "googlenet":
        model.transform_input = True
    with torch.no_grad():
        assert torch.equal(opened(images), model(images))


def test_other_class_counts(tmp_path: Path) -> None:
    torch.save(build("resnet18", num_classes=7).state_dict(), tmp_path / "w.pth")
    opened, recipe = zoo.open_model("resnet18", str(tmp_path / "w.pth"), 7, None, False)
    assert opened.fc.out_features == recipe.num_classes == 7
    with pytest.raises(CheckpointError, match=r"fc\.weight") as caught:
        zoo.open_model("resnet18", str(tmp_path / "w.pth"), None, None, False)
    assert "--num-classes" in caught.value.hint
    with pytest.raises(CheckpointError, match="own classes"):
        zoo.open_model("resnet18", None, 7, None, False)


def test_detector_files_without_batch_counts_get_frozen_norms(tmp_path: Path) -> None:
    model = build("fasterrcnn_mobilenet_v3_large_320_fpn")
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    opened, recipe = zoo.open_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        str(tmp_path / "w.safetensors"),
        None,
        None,
        False,
    )
    norms = [m for m in opened.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == len(recipe.frozen_norms) > 20


def test_the_embedded_network_opens() -> None:
    model, recipe = open_prune(zoo.FASHION, None, None, None, False)
    assert recipe.input.channels == 1
    assert sum(p.numel() for p in model.parameters()) == 174_970


def test_weight_names_that_do_not_exist() -> None:
    with pytest.raises(CheckpointError, match="IMAGENET1K_V1"):
        zoo.open_model("resnet18", "IMAGENET1K_V9", None, None, False)
    with pytest.raises(CheckpointError, match="no weights of its own"):
        zoo.open_model("small_resnet", None, None, None, False)


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))\n"
        "build.input_spec = {'size': 9, 'resize': 9, 'mean': (0.5,), 'std': (0.5,)}\n"
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    model, recipe = zoo.open_model("", None, None, "mynet:build", False)
    assert len(model) == 2
    assert recipe.input.size == 9
    for wrong in ("mynet", "mynet:nothing", "nowhere:build"):
        with pytest.raises(UsageError, match="--factory"):
            zoo.import_factory(wrong)


def test_published_efficientnet_weights_load() -> None:
    model, recipe = zoo.open_model("efficientnet_lite0", None, None, None, False)
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert recipe.input.mean == (127 / 255,) * 3


def test_a_backbone_takes_what_it_shares_with_a_classifier(tmp_path: Path) -> None:
    features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False))
    classifier = SmallResNet(10, 3)
    torch.save(classifier.state_dict(), tmp_path / "c.pth")
    place = {"conv1.weight": "0.weight"}
    zoo.fill_backbone(features, "small_resnet", tmp_path / "c.pth", lambda key: place.get(key, key))
    assert torch.equal(features[0].weight, classifier.conv1.weight)
    torch.save({"0.weight": torch.ones(16, 3, 3, 3)}, tmp_path / "own.pth")
    zoo.fill_backbone(features, "small_resnet", tmp_path / "own.pth", str)
    assert bool((features[0].weight == 1).all())
    with pytest.raises(CheckpointError, match="no weights of its own"):
        zoo.fill_backbone(features, "small_resnet", None, str)
