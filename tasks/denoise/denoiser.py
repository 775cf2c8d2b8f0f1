"""Denoising one picture: estimate its noise, choose the prior, solve, judge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.pictures import Picture
from ...core.progress import Progress
from ...core.runtime import Runtime
from .certificate import Certificate, certify
from .checkpoint import Prior, embedded_prior, load_prior
from .config import DenoiseConfig
from .model import Ridge
from .noise import SMALLEST, estimate_sigma
from .problem import Denoising
from .tv import denoise_tv, tuned_weight

GREY = 255  # levels; noise is measured in these, whatever the depth of the file
TOGETHER = 4_000_000  # pixels above which colour planes are solved one after the other
NOISELESS = 0.05  # grey levels below which there is nothing to remove


@dataclass(frozen=True)
class Outcome:
    """One denoised image: planes (C, 1, H, W), and what there is to say about them."""

    planes: Tensor
    record: dict[str, Any]
    certificates: tuple[Certificate, ...] = ()


class Denoiser:
    """A prior, and how to use it, ready for any number of pictures."""

    def __init__(self, config: DenoiseConfig, runtime: Runtime, progress: Progress) -> None:
        self.config, self.runtime, self.progress = config, runtime, progress
        self._own = load_prior(config.weights) if config.weights else None
        self._ridges: dict[float, Ridge] = {}

    def clean(self, noisy: Picture, name: str) -> Outcome:
        """Return the clean planes of a picture. Raises `DataError` naming it when that fails."""
        planes = noisy.planes[:, None]
        if min(planes.shape[-2:]) < SMALLEST:
            size = f"{planes.shape[-1]}x{planes.shape[-2]}"
            raise DataError(f"{name} is {size} pixels: too small to denoise")
        levels = [self.config.sigma] * len(planes) if self.config.sigma else _estimate(noisy)
        begin = time.monotonic()
        if max(levels) < NOISELESS:
            self.progress.warn(f"{name}: no noise found; the image stays as it is")
            record: dict[str, Any] = {"sigma": levels, "iterations": 0, "converged": True}
            return Outcome(planes, record)
        outcomes = [self._group(planes[part], levels[part], name) for part in _parts(planes)]
        return _merge(outcomes, levels, self.config.sigma is None, time.monotonic() - begin)

    def _group(self, planes: Tensor, levels: Sequence[float], name: str) -> Outcome:
        """Denoise planes that are held in memory together; their noise is taken as equal."""
        sigma = max(NOISELESS, sum(levels) / len(levels))
        planes = planes.to(self.runtime.device)
        if self.config.method == "tv":
            return self._total_variation(planes, sigma, name)
        prior, ridge = self._open(sigma)
        if planes.shape[-1] <= 2 * ridge.margin or planes.shape[-2] <= 2 * ridge.margin:
            raise DataError(
                f"{name} is {planes.shape[-1]}x{planes.shape[-2]} pixels, smaller than the "
                f"{2 * ridge.margin + 1} that the filters span"
            )
        if self.config.mode == "tstep":
            return self._steps(planes, prior, ridge)
        return self._minimise(planes, sigma, prior, ridge, name)

    def _open(self, sigma: float) -> tuple[Prior, Ridge]:
        """Return the prior for this noise, and its regulariser without idle channels."""
        prior = self._own or embedded_prior(sigma, self.config.mode)
        if prior.sigma not in self._ridges:
            prior.model.to(self.runtime.device)
            with torch.no_grad():
                self._ridges[prior.sigma] = prior.model.ridge().pruned()
        return prior, self._ridges[prior.sigma]

    def _minimise(
        self, planes: Tensor, sigma: float, prior: Prior, ridge: Ridge, name: str
    ) -> Outcome:
        strength, scale = prior.parameters(sigma, self.config.lam, self.config.mu)
        strength *= self.config.strength
        problem = Denoising.of(planes, ridge.scaled(strength, scale))
        solution = problem.solve(
            tolerance=self.config.tol,
            iterations=self.config.iterations,
            record=self.config.certify,
            progress=self.progress,
            title=Path(name).name,
        )
        self._insist(solution.converged, name, solution.change)
        distance = solution.distance or 0.0
        record = {
            "lambda": strength,
            "mu": scale,
            "iterations": solution.iterations,
            "converged": solution.converged,
            "change": solution.change,
            "gradient_norm": solution.gradient_norm,
            "distance_rms": GREY * distance / solution.x.numel() ** 0.5,
        }
        proofs = (certify(problem, solution),) if self.config.certify else ()
        return Outcome(problem.crop(solution.x), record, proofs)

    @torch.no_grad()
    def _steps(self, planes: Tensor, prior: Prior, ridge: Ridge) -> Outcome:
        steps = self.config.unroll or prior.unroll
        if steps == 0:
            raise UsageError("these weights do not tell for how many steps", "pass --unroll")
        problem = Denoising.of(planes, ridge)
        x = prior.model.denoise(problem.y, steps, prior.rule, ridge)
        record = {"iterations": steps, "converged": True, "trained_sigma": prior.sigma}
        return Outcome(problem.crop(x), record)

    @torch.no_grad()
    def _total_variation(self, planes: Tensor, sigma: float, name: str) -> Outcome:
        weight = (self.config.lam or tuned_weight(sigma)) * self.config.strength
        solution, _ = denoise_tv(
            planes,
            weight,
            tolerance=self.config.tol,
            iterations=10 * self.config.iterations,
            progress=self.progress,
        )
        self._insist(solution.converged, name, solution.change)
        record = {
            "lambda": weight,
            "iterations": solution.iterations,
            "converged": solution.converged,
            "distance_rms": GREY * (solution.distance or 0.0) / planes.numel() ** 0.5,
        }
        return Outcome(solution.x, record)

    def _insist(self, converged: bool, name: str, change: float) -> None:
        if converged or self.config.best_effort:
            return
        raise DataError(
            f"{name} did not reach --tol {self.config.tol:g} in {self.config.iterations} "
            f"iterations (last relative change {change:.1e}); nothing was written",
            "raise --iterations or --tol, or accept it with --best-effort",
        )


def _parts(planes: Tensor) -> Iterator[slice]:
    """Yield which planes are solved together: all, or one by one to save memory."""
    size = len(planes) if planes[0].numel() <= TOGETHER else 1
    for begin in range(0, len(planes), size):
        yield slice(begin, begin + size)


def _merge(
    outcomes: Sequence[Outcome], levels: Sequence[float], estimated: bool, seconds: float
) -> Outcome:
    """Put the planes of a picture together; numbers are those of the worst plane."""
    records = [outcome.record for outcome in outcomes]
    record: dict[str, Any] = {"sigma": list(levels), "sigma_estimated": estimated}
    for key in records[0]:
        pick = min if key == "converged" else max
        record[key] = pick(r[key] for r in records)
    proofs = tuple(proof for outcome in outcomes for proof in outcome.certificates)
    if proofs:
        record["certificates"] = [proof.to_dict() for proof in proofs]
    record["seconds"] = round(seconds, 3)
    planes = torch.cat([outcome.planes.cpu() for outcome in outcomes])
    return Outcome(planes, record, proofs)


def _estimate(noisy: Picture) -> list[float]:
    return [GREY * sigma for sigma in estimate_sigma(noisy.planes)]
