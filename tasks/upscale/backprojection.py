"""Iterative back-projection: make a large image agree with the small one it should explain.

Source: Irani, Peleg 1991; Soh et al. 2020 use it after adaptation as an option.
"""

from __future__ import annotations

from torch import Tensor

from .degradation import Degradation, Sampling, enlarge


def back_project(
    image: Tensor, low: Tensor, degradation: Degradation, rounds: int, aligned: bool = True
) -> Tensor:
    """Return x after `rounds` of x <- clip(x + enlarge(low - degrade(x)), 0, 1).

    `image` (1, 3, s H, s W), `low` (1, 3, H, W). `aligned` as in `enlarge`; False is the
    published form.
    """
    sampling: Sampling = degradation.sampling if aligned else "bicubic"
    for _ in range(rounds):
        residual = low - degradation(image)
        image = (image + enlarge(residual, degradation.scale, sampling)).clamp(0, 1)
    return image


def network_input(
    low: Tensor, degradation: Degradation, aligned: bool = True, rounds: int = 0
) -> Tensor:
    """Return what the network sees of small images (B, 3, H, W): enlarged, and back-projected.

    The paper's input is `aligned` False and `rounds` 0. With rounds the known blur is mostly
    undone already, and the network corrects what that leaves.
    """
    sampling: Sampling = degradation.sampling if aligned else "bicubic"
    first = enlarge(low, degradation.scale, sampling).clamp(0, 1)
    return back_project(first, low, degradation, rounds, aligned)
