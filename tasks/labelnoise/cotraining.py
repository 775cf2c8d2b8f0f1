"""Two networks: after a warm-up each selects the labels that the other trusts, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.runtime import Runtime, stream
from ...core.training import Objective
from .config import MixMatchOptions
from .data import Images, normalise
from .losses import mix, ramp_up, refine, semi_loss, sharpen
from .model import Network, Pair
from .scoring import augmented, scores
from .selection import Selection, select
from .signals import compute

LAMBDA_U = 25.0  # DivideMix's value for symmetric noise; its authors use 0 for asymmetric noise
ORDER = 21  # key of the random orders


@dataclass(frozen=True)
class Draws:
    """A source of seeds: the objective draws the samples, because the split changes in between."""

    count: int

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Return (2,) int64: how many samples this step takes, and a seed."""
        seed = torch.randint(2**62, (), generator=generator)
        return torch.stack([torch.tensor(len(indices)), seed])


class CoTraining(Objective):
    """Warm-up by cross-entropy, then MixMatch on the split that the other network made.

    An epoch is `per_epoch` steps. The state (step, splits) is in buffers, so that a run resumes
    in the middle of an epoch. Both networks step together, each with the other's guesses.
    """

    model: Pair
    clean: Tensor
    weight: Tensor
    seen: Tensor
    lambda_u: Tensor
    prior: Tensor

    def __init__(
        self,
        model: Pair,
        images: Images,
        options: MixMatchOptions,
        selector: str,
        per_epoch: int,
        runtime: Runtime,
    ) -> None:
        super().__init__()
        self.model = model
        self.images, self.options, self.selector = images, options, selector
        self.per_epoch, self.runtime = per_epoch, runtime
        count, classes = len(images), len(images.classes)
        # Row k is the verdict of network k, which the other one trains on.
        self.register_buffer("clean", torch.ones(2, count, dtype=torch.bool))
        self.register_buffer("weight", torch.ones(2, count, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("lambda_u", torch.zeros((), dtype=torch.float64))
        self.register_buffer("prior", torch.full((classes,), 1 / classes))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Return "loss" and its parts for a draw (2,) of `Draws`."""
        size, seed = batch.tolist()
        epoch, place = divmod(int(self.seen), self.per_epoch)
        self.seen += 1
        generator = torch.Generator().manual_seed(seed)
        if epoch < self.options.warmup_epochs or self.selector == "keep":
            return self._warm_up(epoch, place, size, generator)
        if place == 0:
            self.select_labels()
        losses = [self._mixmatch(number, epoch, place, size, generator) for number in (0, 1)]
        return {name: (losses[0][name] + losses[1][name]) for name in losses[0]}

    # --- the split ---

    @torch.no_grad()
    def select_labels(self) -> None:
        """Let each network judge all labels: one pass, then array work."""
        chosen: list[Selection] = []
        for number, network in enumerate((self.model.first, self.model.second)):
            probs, features = scores(network, self.images.levels, self.runtime)
            signals = compute(probs, features, self.images.labels.numpy())
            chosen.append(select(self.selector, signals, probs))
            self.clean[number] = torch.from_numpy(chosen[-1].clean)
            self.weight[number] = torch.from_numpy(chosen[-1].weight)
        self.lambda_u.fill_(self._lambda(chosen))
        if self.options.prior == "estimated":
            kept = self.images.labels[self.clean.any(0).cpu()]
            sizes = torch.bincount(kept, minlength=len(self.prior)).double() + 1
            self.prior.copy_(sizes / sizes.sum())

    def _lambda(self, chosen: list[Selection]) -> float:
        """Return the full weight of guesses; "auto" is 0 where ACD decides in most classes."""
        if self.options.lambda_u != "auto":
            return float(self.options.lambda_u)
        metrics = np.concatenate([selection.metric for selection in chosen])
        by_acd = np.isin(metrics, ["acd", "impostor"]).mean()
        return 0.0 if by_acd > 0.5 else LAMBDA_U

    # --- the two kinds of step ---

    def _warm_up(
        self, epoch: int, place: int, size: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Plain cross-entropy; each network goes through all samples in its own order."""
        losses = []
        everything = torch.arange(len(self.images))
        for number, network in enumerate((self.model.first, self.model.second)):
            chosen = self._draw(everything, number, epoch, place, 2 * size)
            logits = network(self._view(chosen, generator))
            losses.append(F.cross_entropy(logits.float(), self._labels(chosen)))
        return {"loss": losses[0] + losses[1]}

    def _mixmatch(
        self, number: int, epoch: int, place: int, size: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Train network `number` on what the other one took for clean."""
        networks = (self.model.first, self.model.second)
        network, other = networks[number], networks[1 - number]
        clean = self.clean[1 - number].cpu()
        trusted = self._draw(clean.nonzero()[:, 0], 2 + number, epoch, place, size)
        doubted = self._draw((~clean).nonzero()[:, 0], 4 + number, epoch, place, size)
        views = [self._view(trusted, generator), self._view(trusted, generator)]
        guessed = [self._view(doubted, generator) for _ in range(2 if len(doubted) else 0)]
        options = self.options
        with torch.no_grad():
            own = self._probs(network, views)
            weight = self.weight[1 - number][trusted.to(self.weight.device)].float()
            targets = refine(own, self._labels(trusted), weight, options.temperature)
            goals = [targets, targets]
            if guessed:
                guess = self._guess(network, other, guessed)
                goals += [guess, guess]
        inputs, aims = torch.cat(views + guessed), torch.cat(goals)
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        seed = int(torch.randint(2**31, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(options.alpha, options.alpha))
        mixed, aims = mix(inputs, aims, order, max(share, 1 - share))
        loss = semi_loss(network(mixed), aims, 2 * len(trusted), self.prior.float())
        rise = ramp_up(epoch + place / self.per_epoch, options.warmup_epochs, options.ramp)
        return {
            "loss": loss.total(float(self.lambda_u) * rise),
            "labelled": loss.labelled,
            "guessed": loss.guessed,
            "penalty": loss.penalty,
        }

    def _guess(self, network: Network, other: Network, views: list[Tensor]) -> Tensor:
        """Return sharpened guesses (n, K): the mean of both networks over both views."""
        mine = self._probs(network, views)
        training = other.training
        other.eval()
        theirs = self._probs(other, views)
        other.train(training)
        return sharpen((mine + theirs) / 2, self.options.temperature)

    def _probs(self, network: nn.Module, views: list[Tensor]) -> Tensor:
        """Return the mean prediction (n, K) over views."""
        # One forward per view, as in the authors' code: batch statistics are those of one view.
        return torch.stack([network(view).float().softmax(1) for view in views]).mean(0)

    # --- samples ---

    def _draw(self, places: Tensor, key: int, epoch: int, place: int, size: int) -> Tensor:
        """Return the next `size` of `places` in this epoch's order, which repeats itself."""
        if len(places) == 0:
            return places
        order = torch.randperm(len(places), generator=stream(self.runtime.seed, ORDER, key, epoch))
        start = place * size + torch.arange(size)
        return places[order[start % len(places)]]

    def _view(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        levels = augmented(self.images.levels[chosen], generator)
        return normalise(levels.to(self.runtime.device))

    def _labels(self, chosen: Tensor) -> Tensor:
        return self.images.labels[chosen].to(self.runtime.device)
