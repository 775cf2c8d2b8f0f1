"""`denoise` beside the straightforward implementation and deepinv's solver; memory of a photo."""

from __future__ import annotations

import contextlib
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.core.runtime import stream
from mlkit.tasks.denoise.checkpoint import Prior, embedded_prior
from mlkit.tasks.denoise.data import read_grey
from mlkit.tasks.denoise.handover import SAMPLE
from mlkit.tasks.denoise.model import SPAN, ConvexRidge
from mlkit.tasks.denoise.problem import Denoising

SIGMA, TOLERANCE = 25.0, 1e-4
MEGAPIXELS = 24


class Straightforward(nn.Module):
    """The gradient as one would write it down: two convolutions, and a look-up per value.

    All channels, the table projected at every call, direct transposed convolutions.
    """

    def __init__(self, model: ConvexRidge) -> None:
        super().__init__()
        self.filters = [weight.detach() for weight in model.filters]
        assert model.coefficients is not None
        self.free = model.coefficients.detach()

    def _weights(self) -> list[Tensor]:
        return [w - w.mean((1, 2, 3), keepdim=True) for w in self.filters]

    def _table(self) -> Tensor:
        rises = self.free.diff(dim=1).clamp(min=0)
        rises[:, 0] = rises[:, -1] = 0
        table = torch.cat((torch.zeros(len(rises), 1), rises.cumsum(1)), 1)
        return table - table[:, 10:11]

    def forward(self, x: Tensor) -> Tensor:
        first, second = self._weights()
        reach = first.shape[-1] - 1  # the maps in between are not cut off
        x = F.conv2d(F.conv2d(x, first, padding=reach), second)
        step = 2 * SPAN / 20
        cell = torch.floor(x / step).clamp(-10, 9)
        place = x / step - cell
        table = self._table().flatten()
        index = (cell + 10).long() + 21 * torch.arange(x.shape[1])[:, None, None]
        x = table[index] * (1 - place) + table[index + 1] * place
        return F.conv_transpose2d(F.conv_transpose2d(x, second), first, padding=reach)


def fista(gradient: Callable[[Tensor], Tensor], y: Tensor, lipschitz: float, good: Callable) -> int:
    """The published accelerated scheme with restart; returns the steps until `good(x)`."""
    x = z = y
    t, step = 1.0, 1 / lipschitz
    for k in range(1, 2000):
        slope = step * gradient(z)
        new = z - slope
        before, t = t, 0.5 * (1 + math.sqrt(1 + 4 * t * t))
        z = new + (before - 1) / t * (new - x)
        if float((slope * (new - x)).sum()) > 0:
            t, z = 1.0, x
            continue
        x = new
        if good(x):
            return k
    return k


def compare() -> list[dict[str, Any]]:
    """Seconds until the iterate is within 1e-4 of the minimiser (relative), same image.

    `mlkit` does not know the minimiser and stops when its own bound says so; the others are
    stopped by comparing with it.
    """
    prior = embedded_prior(SIGMA)
    with torch.no_grad():
        problem, exact = _problem(prior)
        strength, scale = prior.parameters(SIGMA)
        bound = 1 + problem.ridge.lipschitz()
        plain = Straightforward(prior.model)

        def good(x: Tensor) -> bool:
            return float((x - exact).norm() / exact.norm()) <= TOLERANCE

        def regulariser(x: Tensor) -> Tensor:
            return strength * plain(scale * x)

        begin = time.perf_counter()
        found = problem.solve(tolerance=TOLERANCE)
        rows = [_row("mlkit (proved)", time.perf_counter() - begin, found.iterations)]
        rows[0]["error"] = f"{float((found.x - exact).norm() / exact.norm()):.1e}"
        begin = time.perf_counter()
        steps = fista(lambda x: x - problem.y + regulariser(x), problem.y, bound, good)
        rows.append(_row("straightforward", time.perf_counter() - begin, steps))
        rows += [_row(*line) for line in _deepinv(problem, regulariser, bound, good)]
        rows += [
            _row(f"{name}, our gradient", seconds, steps)
            for name, seconds, steps in _deepinv(problem, problem.ridge.gradient, bound, good)
        ]
        rows += _gradients(problem, regulariser)
    return [*rows, memory()]


def _problem(prior: Prior) -> tuple[Denoising, Tensor]:
    """Return the sample photograph in grey with noise, and its minimiser to 2e-6."""
    clean = read_grey(SAMPLE)[None, None] / 255
    noisy = clean + SIGMA / 255 * torch.randn(clean.shape, generator=stream(0, 9))
    ridge = prior.model.ridge().pruned().scaled(*prior.parameters(SIGMA))
    problem = Denoising.of(noisy, ridge)
    return problem, problem.solve(tolerance=2e-6, iterations=5000).x


def _row(name: str, seconds: float, steps: int) -> dict[str, Any]:
    return {"solver": name, "seconds": round(seconds, 2), "gradients": steps}


def _gradients(problem: Denoising, plain: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """Milliseconds of one gradient, calls interleaved, the best of seven."""
    times: dict[str, list[float]] = {"mlkit": [], "straightforward": []}
    for _ in range(7):
        for name, function in (("mlkit", problem.ridge.gradient), ("straightforward", plain)):
            begin = time.perf_counter()
            function(problem.y)
            times[name].append(time.perf_counter() - begin)
    return [
        {"one gradient": name, "ms": round(1e3 * min(values), 1)} for name, values in times.items()
    ]


class _ReachedError(Exception):
    """The iterate of a foreign solver is good enough."""


def _deepinv(
    problem: Denoising, gradient: Callable[[Tensor], Tensor], bound: float, good: Callable
) -> Iterator[tuple[str, float, int]]:
    """Yield (solver, seconds, steps) of deepinv's (the bench extra) on the same problem.

    FISTA takes the gradient of the prior and the proximal map of the data term.
    """
    from deepinv.optim import FISTA, GD, L2
    from deepinv.optim import Prior as DeepinvPrior
    from deepinv.physics import Denoising as Physics

    class Ridge(DeepinvPrior):
        def __init__(self) -> None:
            super().__init__()
            self.explicit_prior, self.calls = True, 0

        def grad(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            if good(x):
                raise _ReachedError
            return gradient(x)

        def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros(len(x))  # asked for, but no step depends on it

    for name, solver, settings in (
        ("deepinv GD", GD, {"stepsize": 1 / bound}),
        ("deepinv FISTA", FISTA, {"stepsize": 1 / (bound - 1), "g_first": True}),
    ):
        prior = Ridge()
        model = solver(data_fidelity=L2(), prior=prior, max_iter=3000, **settings)
        begin = time.perf_counter()
        with contextlib.suppress(_ReachedError):
            model(problem.y, Physics())
        yield name, time.perf_counter() - begin, prior.calls


def memory() -> dict[str, Any]:
    """Peak memory of a process that denoises a colour photograph of 24 megapixels."""
    code = (
        "import resource, sys, time, torch\n"
        "from mlkit.core.options import RunOptions\n"
        "from mlkit.core.pictures import Picture\n"
        "from mlkit.core.progress import Silent\n"
        "from mlkit.core.runtime import start\n"
        "from mlkit.tasks.denoise import DenoiseConfig\n"
        "from mlkit.tasks.denoise.denoiser import Denoiser\n"
        "config = DenoiseConfig(inputs=('x.png',), sigma=25, iterations=1, best_effort=True)\n"
        "tool = Denoiser(config, start(RunOptions(threads=1)), Silent())\n"
        "picture = Picture(torch.rand(3, 4000, 6000))\n"
        "begin = time.perf_counter()\n"
        "tool.clean(picture, 'photo')\n"
        "seconds = (time.perf_counter() - begin) / 3\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "photo": f"{MEGAPIXELS} megapixels, colour",
        "peak GB": round(peak / 1e9, 2),
        "s per iteration and plane": round(seconds, 1),
        "this process GB": round(own / 1e9, 2),
    }
