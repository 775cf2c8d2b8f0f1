"""The network: a few convolutions that correct a bicubic enlargement, and its learned step sizes.

Images are (B, 3, H, W) RGB in [0, 1], already enlarged to the size of the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.runtime import stream

Weights = Mapping[str, Tensor]

# A normal variable cut off at two standard deviations has this standard deviation.
_TRUNCATED = 0.87962566103423978


class Network(nn.Module):
    """f(x) = x + conv_n(relu(... relu(conv_1(x)))): n = `depth` convolutions of 3 x 3 pixels.

    `width` channels inside; zeros beyond the frame. 64 channels and 8 layers are the paper's
    225,091 parameters. `log_rates` (steps, 2 * depth) are the logarithms of the step sizes of the
    first adaptation steps, one for each weight and bias (Antoniou et al. 2019; the paper has one
    constant): part of the checkpoint, not of the function.
    """

    def __init__(
        self, width: int = 64, depth: int = 8, steps: int = 5, rate: float = 0.01, seed: int = 0
    ) -> None:
        super().__init__()
        self.settings = {"width": width, "depth": depth, "steps": steps}
        self.depth = depth
        channels = [3, *[width] * (depth - 1), 3]
        for i in range(depth):
            layer = nn.Conv2d(channels[i], channels[i + 1], 3, padding=1)
            setattr(self, f"conv{i + 1}", layer)
        self.log_rates = nn.Parameter(torch.full((steps, 2 * depth), math.log(rate)))
        self.draw(seed)

    @torch.no_grad()
    def draw(self, seed: int, gain: float = 1.0) -> None:
        """Draw new weights: truncated normal of variance `gain` / fan-in, biases zero."""
        generator = stream(seed, 11)
        for name, tensor in self.weights().items():
            if name.endswith("bias"):
                tensor.zero_()
                continue
            deviation = math.sqrt(gain / tensor[0].numel())
            uniform = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            # Inverse of the normal distribution function between -2 and 2 standard deviations.
            low = 0.5 * math.erfc(2 / math.sqrt(2))
            normal = torch.special.ndtri(low + uniform * (1 - 2 * low))
            tensor.copy_(normal * deviation / _TRUNCATED)

    def weights(self) -> dict[str, Tensor]:
        """Return what adaptation changes: all but the step sizes, in the order of `log_rates`."""
        return {name: p for name, p in self.named_parameters() if name != "log_rates"}

    def rates(self, step: int) -> Tensor:
        """Return the step sizes (2 * depth,) of step 0, 1, ...; beyond the learned, the last."""
        return self.log_rates[min(step, len(self.log_rates) - 1)].exp()

    @property
    def reach(self) -> int:
        """How many pixels far the network sees."""
        return self.depth

    def forward(self, x: Tensor) -> Tensor:
        """Return corrected images of the same shape, not clipped."""
        return apply(self.weights(), x)


def apply(weights: Weights, x: Tensor) -> Tensor:
    """Return the network's output with these weights, differentiable in them."""
    depth = len(weights) // 2
    hidden = x
    for i in range(1, depth + 1):
        hidden = F.conv2d(hidden, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], padding=1)
        if i < depth:
            hidden = F.relu(hidden)
    return x + hidden
