"""The two numbers that fit a prior to a noise level: found on images, then interpolated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...core.metrics import psnr
from ...core.progress import Progress, Silent
from ...core.runtime import stream
from .model import Ridge
from .problem import Denoising

Point = dict[str, float]

LEVELS = (5.0, 15.0, 25.0, 50.0)
SMALLEST_SCALE, LARGEST_SCALE = 0.1, 20.0
FINEST = 1.15
INDIFFERENT = 0.01  # dB; a smaller mu that costs no more is preferred, it takes fewer iterations
TOLERANCE = 1e-3  # of a solution during the search; costs a few hundredths of a dB


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    """Return the piecewise linear function through sorted points (x, y), positive everywhere.

    Below the first point it goes through the origin, above the last it goes on as before.
    """
    points = [(0.0, 0.0), *points]
    right = next((i for i, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    right = max(1, right)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return max(y0 + (y1 - y0) * (at - x0) / (x1 - x0), 1e-9)


def strength_and_scale(tuning: Sequence[Point], sigma: float) -> tuple[float, float]:
    """Return lambda and mu for noise of `sigma` grey levels."""
    points = sorted(tuning, key=lambda point: point["sigma"])
    strength = interpolate([(p["sigma"], p["strength"]) for p in points], sigma)
    inside = min(max(sigma, points[0]["sigma"]), points[-1]["sigma"])
    return strength, interpolate([(p["sigma"], p["scale"]) for p in points], inside)


def coarse_to_fine(
    score: Callable[[float, float], float],
    start: tuple[float, float],
    factors: tuple[float, float] = (3.0, 3.0),
    finest: float = FINEST,
    largest_second: float = math.inf,
) -> tuple[float, float]:
    """Return the pair of positive numbers with the highest score.

    A 3 x 3 grid in powers of the factors moves while its best point lies on an edge, and
    shrinks to square roots of the factors once that is its centre.
    """
    seen: dict[tuple[float, float], float] = {}
    centre, (g, h) = start, factors

    def at(a: float, b: float) -> float:
        key = (float(f"{a:.6g}"), float(f"{min(b, largest_second):.6g}"))
        if key not in seen:
            seen[key] = score(*key)
        return seen[key]

    while max(g, h) >= finest:
        grid = [(i, j) for i in (0, -1, 1) for j in (0, -1, 1)]
        i, j = max(grid, key=lambda ij: at(centre[0] * g ** ij[0], centre[1] * h ** ij[1]))
        centre = (centre[0] * g**i, min(centre[1] * h**j, largest_second))
        if i == 0:
            g = math.sqrt(g)
        if j == 0:
            h = math.sqrt(h)
    return centre


def tune(
    ridge: Ridge,
    clean: Tensor,
    levels: Sequence[float] = LEVELS,
    progress: Progress | None = None,
) -> list[Point]:
    """Return the best lambda and mu at each noise level, by mean PSNR on `clean` (B, 1, H, W).

    Both are searched at the middle level, lambda alone at the others. Then mu, which matters
    little but costs iterations, is lowered at each level as far as PSNR allows.
    """
    middle = sorted(levels)[len(levels) // 2]
    found: dict[float, Point] = {}  # the best of each level
    tuned: dict[float, Point] = {}
    with (progress or Silent()).task("tuning", len(levels)) as task:
        for sigma in sorted(levels, key=lambda level: abs(level - middle)):
            score = _Score(ridge, clean, sigma)
            start, factors = (0.2 * sigma / ridge.lipschitz(), 10.0), (2.0, 2.0)
            if sigma != middle:
                near = found[middle]
                start, factors = (near["strength"] * sigma / middle, near["scale"]), (1.5, 1.0)
            strength, scale = coarse_to_fine(score, start, factors, largest_second=LARGEST_SCALE)
            found[sigma] = {"sigma": sigma, "strength": strength, "scale": scale}
            tuned[sigma] = found[sigma] | _gentlest(score, strength, scale)
            task.advance(
                1, "sigma {sigma:g}: lambda {strength:.3g}, mu {scale:.3g}".format(**tuned[sigma])
            )
    return [tuned[sigma] for sigma in sorted(levels)]


def _gentlest(
    score: Callable[[float, float], float], strength: float, scale: float
) -> dict[str, float]:
    """Return the smallest mu (in steps of 1.5) whose PSNR is that of the best one, and the PSNR."""
    best = found = score(strength, scale)
    while scale / 1.5 >= SMALLEST_SCALE:
        lower = score(strength, scale / 1.5)
        if lower < best - INDIFFERENT:
            break
        scale, found = scale / 1.5, lower
    return {"scale": scale, "psnr": found}


class _Score:
    """Mean PSNR of a pair; each minimisation starts where the one before ended."""

    def __init__(self, ridge: Ridge, clean: Tensor, sigma: float) -> None:
        noise = torch.randn(clean.shape, generator=stream(0, 4, round(100 * sigma)))
        self.ridge, self.clean = ridge, clean
        self.noisy = clean + sigma / 255 * noise.to(clean)
        self.last: Tensor | None = None

    def __call__(self, strength: float, scale: float) -> float:
        problem = Denoising.of(self.noisy, self.ridge.scaled(strength, scale))
        self.last = problem.solve(tolerance=TOLERANCE, start=self.last).x
        found = problem.crop(self.last)
        scores = [psnr(a, b) for a, b in zip(found, self.clean, strict=True)]
        return sum(scores) / len(scores)
