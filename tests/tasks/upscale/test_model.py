from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mlkit.core.tiles import in_tiles
from mlkit.tasks.upscale.model import Network, apply

from .helpers import network, picture


def test_the_paper_network_has_its_parameters() -> None:
    full = Network()
    assert sum(w.numel() for w in full.weights().values()) == 225_091
    assert full.log_rates.shape == (5, 16)
    assert full.reach == 8
    assert list(full.weights())[:2] == ["conv1.weight", "conv1.bias"]
    assert full.weights()["conv8.weight"].shape == (3, 64, 3, 3)


def test_it_is_the_sequence_of_layers_plus_its_input() -> None:
    net, x = network(depth=4), picture(20, 24)[None]
    layers: list[nn.Module] = []
    for i in range(1, 5):
        layers += [getattr(net, f"conv{i}"), nn.ReLU()]
    wanted = x + nn.Sequential(*layers[:-1])(x)
    torch.testing.assert_close(net(x), wanted)
    torch.testing.assert_close(apply(net.weights(), x), wanted)


def test_without_its_last_layer_it_is_the_identity() -> None:
    net, x = network(), picture(16, 20)[None]
    nn.init.zeros_(net.conv3.weight)
    assert torch.equal(net(x), x)


def test_weights_are_drawn_from_a_truncated_normal() -> None:
    net = Network(48, 3)
    weight = net.conv2.weight.detach().flatten().double()
    deviation = math.sqrt(1 / (48 * 9))
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    assert float(weight.abs().max()) <= 2 * deviation / 0.8796 + 1e-9
    assert not net.conv2.bias.any()
    again = Network(48, 3)
    assert torch.equal(again.conv2.weight, net.conv2.weight)
    again.draw(1, 0.1)
    assert float(again.conv2.weight.detach().std()) == pytest.approx(deviation * 0.1**0.5, rel=0.02)


def test_step_sizes_go_on_with_the_last() -> None:
    net = Network(4, 3, steps=2, rate=0.03)
    with torch.no_grad():
        net.log_rates[1] = math.log(0.2)
    assert net.rates(0).tolist() == pytest.approx([0.03] * 6)
    assert net.rates(1).tolist() == net.rates(7).tolist() == pytest.approx([0.2] * 6)


def test_tiles_of_the_reach_are_exact() -> None:
    net, x = network(depth=5).double(), picture(70, 90)[None].double()
    with torch.no_grad():
        found = in_tiles(x, 32, net.reach, net)
        torch.testing.assert_close(found, net(x), rtol=0, atol=1e-6)
