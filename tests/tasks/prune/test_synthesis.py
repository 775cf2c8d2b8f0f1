from __future__ import annotations

import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from mlkit.core.errors import CheckpointError, DataError, DivergedError
from mlkit.core.inputs import InputSpec
from mlkit.core.networks import SmallResNet
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.prune import synthesis
from mlkit.tasks.prune.config import PruneConfig
from mlkit.tasks.prune.zoo import EMBEDDED, open_model

from .helpers import randomise

SPEC = InputSpec(16, 16, (0.5,), (0.25,))


def settings(**options: Any) -> synthesis.Settings:
    options = {"synthetic_images": 8, "iterations": 6, **options}
    return synthesis.make_settings(PruneConfig(**options), SPEC.size)


def make(seed: int = 0, **options: Any) -> torch.Tensor:
    torch.manual_seed(1)
    network = randomise(SmallResNet())
    runtime = start(RunOptions(seed=seed, device="cpu"))
    return synthesis.synthesise(network, SPEC, settings(**options), runtime, Silent(), classes=10)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_statistics_term(kind: Any) -> None:
    inputs = torch.randn(5, 4, 6, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1
    values = inputs.double().numpy()
    mean, var = values.mean((0, 2, 3)), values.var((0, 2, 3))  # numpy's variance is biased
    fresh = kind(4)
    expected = np.linalg.norm(var - 1) + np.linalg.norm(mean)
    assert float(synthesis.bn_distance(inputs, fresh)) == pytest.approx(expected, rel=1e-5)
    fresh.running_mean.copy_(torch.from_numpy(mean))
    fresh.running_var.copy_(torch.from_numpy(var))
    assert float(synthesis.bn_distance(inputs, fresh)) < 1e-4


def test_smoothness_terms() -> None:
    height, width = 5, 7
    constant = torch.full((2, 3, height, width), 0.3)
    assert float(synthesis.tv2(constant)) == float(synthesis.tv1(constant)) == 0
    ramp = torch.arange(float(width)).expand(1, 3, height, width)
    expected = math.sqrt(3 * height * (width - 1)) + 2 * math.sqrt(3 * (height - 1) * (width - 1))
    assert float(synthesis.tv2(ramp)) == pytest.approx(expected)
    assert float(synthesis.tv1(ramp)) == pytest.approx(3.0)


def test_image_norms() -> None:
    images = torch.randn(3, 1, 4, 4)
    flat = images.flatten(1).numpy()
    assert float(synthesis.image_norm(images, False)) == pytest.approx(np.linalg.norm(flat))
    mean = np.linalg.norm(flat, axis=1).mean()
    assert float(synthesis.image_norm(images, True)) == pytest.approx(mean)


def test_a_layer_that_is_far_off_is_skipped() -> None:
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(1e8)
    with synthesis.watching(nn.Sequential(norm.eval()), 1.0) as terms:
        norm(torch.zeros(2, 1, 3, 3))
    assert float(terms[0]) == 0


def test_the_first_norm_weighs_more() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)).eval()
    images = torch.randn(4, 2, 5, 5)
    with synthesis.watching(network, 10.0) as weighted:
        network(images)
    with synthesis.watching(network, 1.0) as plain:
        network(images)
    torch.testing.assert_close(weighted[0], 10 * plain[0])
    torch.testing.assert_close(weighted[1], plain[1])


def test_targets_are_balanced_and_the_rest_rotates() -> None:
    counts = torch.bincount(synthesis.balanced_targets(256, 0, 10), minlength=10)
    assert sorted(counts.tolist()) == [25] * 4 + [26] * 6
    together = torch.cat([synthesis.balanced_targets(256, i, 10) for i in range(5)])
    assert torch.bincount(together).tolist() == [128] * 10


def test_presets_are_the_papers() -> None:
    small = synthesis.make_settings(PruneConfig(preset="paper"), 32)
    assert (small.images, small.batch, small.scales) == (12_800, 256, ((1, 2000),))
    assert (small.lr, small.betas, small.lambda_bn, small.jitter) == (0.1, (0.9, 0.99), 10, 2)
    large = synthesis.make_settings(PruneConfig(preset="paper"), 250)
    assert (large.images, large.batch) == (1600, 16)
    assert large.scales == ((2, 2000), (1, 1000))
    assert (large.lr, large.betas, large.lambda_bn, large.first_bn) == (0.25, (0.5, 0.9), 0.01, 10)
    assert synthesis.make_settings(PruneConfig(lambda_bn=3.0), 32).lambda_bn == 3.0


def test_images_are_pixels_and_depend_on_the_seed_alone() -> None:
    images = make()
    assert images.shape == (8, 1, 16, 16)
    pixels = SPEC.denormalise(images)
    assert float(pixels.min()) >= -1e-3
    assert float(pixels.max()) <= 1 + 1e-3
    assert torch.equal(images, make())
    assert not torch.equal(images, make(seed=1))


def test_images_approach_the_statistics_of_the_training_data() -> None:
    network, recipe = open_model(EMBEDDED, None, None, None, False)

    def distance(iterations: int) -> float:
        options = PruneConfig(synthetic_images=16, iterations=iterations)
        chosen = synthesis.make_settings(options, 28)
        runtime = start(RunOptions(device="cpu"))
        images = synthesis.synthesise(network, recipe.input, chosen, runtime, Silent(), classes=10)
        with synthesis.watching(network, 1.0) as terms, torch.no_grad():
            network(images)
        return float(torch.stack(terms).sum())

    assert distance(150) < 0.4 * distance(1)


def test_weights_stay_as_they_were() -> None:
    network = randomise(SmallResNet())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    runtime = start(RunOptions(device="cpu"))
    synthesis.synthesise(network, SPEC, settings(), runtime, Silent(), classes=10)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def test_large_images_go_through_half_scale() -> None:
    spec = InputSpec(96, 96)
    options = synthesis.make_settings(PruneConfig(synthetic_images=4, iterations=3), 96)
    assert options.scales == ((2, 2), (1, 1))
    seen: list[int] = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)).eval()
    network[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    runtime = start(RunOptions(device="cpu"))
    synthesis.synthesise(network, spec, options, runtime, Silent())
    assert seen == [48, 48, 96]


def test_finished_batches_are_not_made_again(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = randomise(SmallResNet())
    runtime = start(RunOptions(device="cpu"))
    options = settings(synthesis_batch=4)

    def run(folder: Path | None) -> torch.Tensor:
        return synthesis.synthesise(
            network, SPEC, options, runtime, Silent(), classes=10, folder=folder
        )

    whole = run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "batch-0001.safetensors").unlink()
    calls = [0]
    network.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    assert torch.equal(whole, run(tmp_path))
    assert calls[0] == 6


def test_no_image_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"opened {args}")

    torch.manual_seed(0)
    network = randomise(SmallResNet())
    runtime = start(RunOptions(device="cpu"))
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    synthesis.synthesise(network, SPEC, settings(), runtime, Silent(), classes=10)


def test_networks_without_statistics_are_refused() -> None:
    with pytest.raises(DataError, match="no BatchNorm") as caught:
        synthesis.check_statistics(nn.Sequential(nn.Conv2d(3, 4, 3)), trained=True)
    assert "--images" in caught.value.hint
    folded = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(DataError, match="hold no statistics"):
        synthesis.check_statistics(folded, trained=True)
    synthesis.check_statistics(folded, trained=False)


def test_a_diverging_synthesis_stops() -> None:
    torch.manual_seed(0)
    network = randomise(SmallResNet())
    with torch.no_grad():
        network.conv1.weight.fill_(math.inf)
    runtime = start(RunOptions(device="cpu"))
    with pytest.raises(DivergedError, match="iteration 1") as caught:
        synthesis.synthesise(network, SPEC, settings(), runtime, Silent(), classes=10)
    assert "--lambda-bn" in caught.value.hint


def test_stored_images_must_fit_the_model(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    images = torch.rand(3, 1, 16, 16).half().float()
    synthesis.save_images(path, images)
    assert torch.equal(synthesis.load_images(path, SPEC), images)
    with pytest.raises(CheckpointError, match=r"\(1, 16, 16\)"):
        synthesis.load_images(path, InputSpec())
