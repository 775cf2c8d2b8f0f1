"""`reconstruct` beside the straightforward implementation; projectors beside scikit-image."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage.transform import iradon, radon
from torch import Tensor

from mlkit.core.operators.backprojection import filtered_backprojection
from mlkit.core.operators.tomography import Beam, Tomography
from mlkit.core.runtime import stream
from mlkit.tasks.denoise.checkpoint import ALL_ROUND, Prior, embedded_prior
from mlkit.tasks.denoise.reconstruction.config import SolveOptions
from mlkit.tasks.denoise.reconstruction.phantom import shepp_logan
from mlkit.tasks.denoise.reconstruction.problem import Problem
from mlkit.tasks.denoise.reconstruction.solve import Reconstructor

from .denoise import Straightforward

SIZE, VIEWS, BINS = 128, 60, 183
NEAR = 1e-3  # relative distance to the minimiser at which the clock stops


class _Reached(Exception):
    """The iterate is near the minimiser."""


def compare() -> list[dict[str, Any]]:
    """Seconds until the iterate is near the minimiser, and the times of projectors."""
    return [*solvers(), *projectors()]


@torch.no_grad()
def solvers() -> list[dict[str, Any]]:
    """CT of the phantom: ours, and FISTA without restart on the gradient as one writes it down."""
    prior = embedded_prior(ALL_ROUND)
    problem = _problem()
    tool = Reconstructor("ct", prior.model.ridge(), SolveOptions(tol=1e-6, iterations=4000))
    strength = tool.usual_strength(problem)
    penalty = tool.penalty(problem, strength)
    exact = tool.solve(problem, strength, problem.start).x
    lipschitz = 1 + penalty.lipschitz
    plain = _plain_gradient(prior, problem, strength, tool.mu)

    def ours(project: Callable[[Tensor], Tensor]) -> None:
        penalty.prox = lambda x, step: project(x)  # type: ignore[method-assign]
        tool.penalty = lambda *_: penalty  # type: ignore[method-assign]
        tool.solve(problem, strength, problem.start)

    def straightforward(project: Callable[[Tensor], Tensor]) -> None:
        _fista(plain, problem.start, lipschitz, project)

    return [
        _race("mlkit", ours, exact),
        _race("straightforward FISTA", straightforward, exact),
    ]


def _race(name: str, solve: Callable[..., None], exact: Tensor) -> dict[str, Any]:
    """Time a solver until the point that it projects is near; it projects once a step."""
    steps = 0

    def project(x: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        x = x.clamp_min(0)
        if float((x - exact).norm() / exact.norm()) <= NEAR:
            raise _Reached
        return x

    begin = time.perf_counter()
    try:
        solve(project)
    except _Reached:
        return {"solver": name, "seconds": round(time.perf_counter() - begin, 2), "steps": steps}
    return {"solver": name, "seconds": "did not arrive", "steps": steps}


def _problem() -> Problem:
    operator = Tomography(Beam(np.arange(VIEWS) * math.pi / VIEWS, BINS), (SIZE, SIZE))
    clean = operator(shepp_logan(SIZE, SIZE))
    noise = 0.005 * float(clean.max())
    data = clean + noise * torch.randn(clean.shape, generator=stream(0, 1))
    start = filtered_backprojection(data, operator.beam, (SIZE, SIZE), window="hann")
    return Problem(operator, data, start, data.numel(), noise, True, 1.0, operator.norm())


def _plain_gradient(
    prior: Prior, problem: Problem, strength: float, mu: float
) -> Callable[[Tensor], Tensor]:
    network = Straightforward(prior.model)
    return lambda x: problem.gradient(x) + strength * network(mu * x)


def _fista(
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    lipschitz: float,
    project: Callable[[Tensor], Tensor],
) -> None:
    x = z = start.clamp_min(0)
    t = 1.0
    for _ in range(4000):
        new = project(z - gradient(z) / lipschitz)
        before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
        z, x = new + (before - 1) / t * (new - x), new


def projectors() -> list[dict[str, Any]]:
    """Milliseconds of a projection, of the exact transpose, and of filtered back-projection."""
    size, views, bins = 256, 120, 363
    beam = Beam(np.arange(views) * math.pi / views, bins)
    begin = time.perf_counter()
    operator = Tomography(beam, (size, size))
    built = time.perf_counter() - begin
    image = shepp_logan(size, size)
    sinogram = operator(image)
    degrees, pixels = np.rad2deg(beam.angles), image[0, 0].double().numpy()
    peer = radon(pixels, degrees, circle=False)

    def back() -> Tensor:
        return filtered_backprojection(sinogram, beam, (size, size))

    return [
        {"projector": "mlkit matrix", "built in s": round(built, 2)},
        _milliseconds("mlkit H x", lambda: operator(image)),
        _milliseconds("mlkit H^T y", lambda: operator.adjoint(sinogram)),
        _milliseconds("scikit-image radon", lambda: radon(pixels, degrees, circle=False), 2),
        _milliseconds("mlkit back-projection", back, 3),
        _milliseconds(
            "scikit-image iradon", lambda: iradon(peer, degrees, output_size=size, circle=False), 3
        ),
    ]


def _milliseconds(name: str, function: Callable[[], Any], runs: int = 10) -> dict[str, Any]:
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return {"projector": name, "ms": round(1e3 * min(times), 1)}
