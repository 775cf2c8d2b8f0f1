"""Solvers for smooth convex problems min f(x), with or without x in a convex set.

They know a function by its gradient and its constants alone: no network, no operator. What they
return says how far they came, so that a caller can refuse a run that did not converge.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import DivergedError
from .progress import Progress, Silent

Map = Callable[[Tensor], Tensor]

# A rise of the energy below this part of its value is rounding.
ROUNDING = 1e-6
_FIRST_STEP = 1e-5  # of the adaptive method, which grows it
# Steps that must all be short: right after a restart a single one is, however far the goal.
PATIENCE = 20


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    `change` is ||x_k - x_(k-1)|| / ||x_k|| of the last step. `gradient_norm` is the norm of the
    gradient mapping (z - P(z - a*grad f(z))) / a at the point z of the last step; without a
    projection that is a gradient's norm. `distance` bounds ||x - x*|| where the problem is
    strongly convex (None elsewhere). `energies` holds f at the start and after each step, where
    an energy was given; `restarts` counts how often the momentum was dropped.
    """

    x: Tensor
    iterations: int
    converged: bool
    change: float
    gradient_norm: float
    distance: float | None = None
    restarts: int = 0
    energies: list[float] = field(default_factory=list)


def accelerated_gradient(
    gradient: Map,
    start: Tensor,
    *,
    lipschitz: float,
    strong_convexity: float = 0.0,
    project: Map | None = None,
    energy: Callable[[Tensor], float] | None = None,
    tolerance: float = 1e-5,
    iterations: int = 1000,
    progress: Progress | None = None,
    title: str = "solving",
) -> Solution:
    """Minimise f with Nesterov's momentum, restarted where it points uphill.

    `gradient` is Lipschitz with the constant `lipschitz`; `strong_convexity` is m of an m-strongly
    convex f (0: not known). `project` maps onto a convex set. With m > 0 the run has converged
    when the bound ||x - x*|| <= (1/m - 1/L) * ||G(z)|| is below `tolerance` * ||x||, otherwise
    when the relative change of the last steps is. With an `energy` no step raises it by more than
    rounding: a step that would is dropped, and a plain gradient step follows.

    Raises `DivergedError` when numbers become infinite. Sources: Beck, Teboulle 2009 (FISTA);
    O'Donoghue, Candes 2015 (gradient restart); Nesterov 2004, 2.2.1 (strong convexity).
    """
    step = 1 / lipschitz
    project = project or _identity
    momentum = _Momentum(math.sqrt(step * strong_convexity))
    watch = _Watch(tolerance, (1 / strong_convexity - step) if strong_convexity else None)
    x = z = start
    energies = [energy(start)] if energy else []
    restarts = k = 0
    with (progress or Silent()).task(title, iterations) as task:
        for k in range(1, iterations + 1):
            new = project(z - step * gradient(z))
            uphill = watch.measure(x, z, new, step, k)
            task.advance(1, watch.note)
            value = energy(new) if energy else 0.0
            if energy and value > energies[-1] + ROUNDING * abs(energies[-1]):
                uphill = True
            if uphill and z is not x:
                z, restarts = x, restarts + 1
                momentum.reset()
                continue
            if energy:
                energies.append(value)
            x, z = new, torch.lerp(x, new, 1 + momentum.advance())
            if watch.converged:
                break
    return watch.solution(x, k, restarts, energies)


def adaptive_gradient(
    gradient: Map,
    start: Tensor,
    *,
    strong_convexity: float = 0.0,
    project: Map | None = None,
    energy: Callable[[Tensor], float] | None = None,
    tolerance: float = 1e-5,
    iterations: int = 1000,
    progress: Progress | None = None,
    title: str = "solving",
) -> Solution:
    """Minimise a smooth convex f by gradient steps whose size follows the local curvature.

    Needs no Lipschitz constant; see `accelerated_gradient` for the arguments. The bound of the
    distance is ||grad f(x)|| / m. With a projection the method is a heuristic without a proof:
    no bound is given, and the relative change of a step decides.
    Source: Malitsky, Mishchenko, "Adaptive Gradient Descent without Descent", ICML 2020.
    """
    exact = project is None
    watch = _Watch(tolerance, 1 / strong_convexity if strong_convexity and exact else None)
    energies = [energy(start)] if energy else []
    step, theta, k = _FIRST_STEP, math.inf, 0
    x, slope = start, gradient(start)
    with (progress or Silent()).task(title, iterations) as task:
        for k in range(1, iterations + 1):
            new = x - step * slope if project is None else project(x - step * slope)
            before, slope = slope, gradient(new)
            watch.measure(x, x, new, step, k, slope if exact else None)
            task.advance(1, watch.note)
            if energy:
                energies.append(energy(new))
            moved, x = float((new - x).norm()), new
            if watch.converged and k > 1:  # the first step is tiny by choice
                break
            bend = 2 * float((slope - before).norm())
            longer = min(math.sqrt(1 + theta) * step, moved / bend if bend > 0 else math.inf)
            if not math.isfinite(longer):  # the gradient has been constant so far
                longer = 2 * step
            step, theta = longer, longer / step
    return watch.solution(x, k, 0, energies)


def _identity(x: Tensor) -> Tensor:
    return x


class _Momentum:
    """The extrapolation factors: FISTA's, never above the constant one of strong convexity."""

    def __init__(self, root: float) -> None:
        self.limit = (1 - root) / (1 + root)
        self.t = 1.0

    def advance(self) -> float:
        before, self.t = self.t, (1 + math.sqrt(1 + 4 * self.t**2)) / 2
        return min((before - 1) / self.t, self.limit)

    def reset(self) -> None:
        self.t = 1.0


class _Watch:
    """Measures each step, and knows when the run has converged.

    `factor` turns the norm of the gradient mapping into a bound of the distance to the minimiser.
    """

    def __init__(self, tolerance: float, factor: float | None) -> None:
        self.tolerance, self.factor = tolerance, factor
        self.change = self.size = math.inf
        self.distance: float | None = None
        self.converged = False
        self.recent: deque[float] = deque([math.inf], PATIENCE)

    def measure(
        self, x: Tensor, z: Tensor, new: Tensor, step: float, k: int, slope: Tensor | None = None
    ) -> bool:
        """Measure the step from `z` to `new`; return True when the momentum points uphill.

        `slope` is the gradient at `new`, where it stands for the gradient mapping at `z`.
        """
        moved, back = new - x, z - new
        mapping = back.norm() / step if slope is None else slope.norm()
        # One transfer from the device for all four numbers.
        numbers = torch.stack(
            [moved.norm(), mapping, new.norm(), (back * moved).sum().to(new.dtype)]
        ).tolist()
        if not all(map(math.isfinite, numbers)):
            raise DivergedError(
                f"the solver diverged in iteration {k}",
                "the step is too long: the Lipschitz constant in use is too small",
            )
        length = max(numbers[2], torch.finfo(new.dtype).tiny)
        self.change, self.size = numbers[0] / length, numbers[1]
        self.distance = None if self.factor is None else self.factor * self.size
        self.recent.append(self.change)
        reached = max(self.recent) if self.distance is None else self.distance / length
        self.converged = reached <= self.tolerance
        return numbers[3] > 0

    @property
    def note(self) -> str:
        return f"change {self.change:.1e}"

    def solution(self, x: Tensor, k: int, restarts: int, energies: list[float]) -> Solution:
        """Return the record of the run."""
        return Solution(
            x, k, self.converged, self.change, self.size, self.distance, restarts, energies
        )
