"""rhoMoCo, rhoBYOL, rhoSimCLR and rhoSwAV as objectives of the training loop.

Each takes the clips of B videos, encodes every clip on its own (batch statistics are those of one
clip of each video) and returns the mean loss over the clips as queries.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.distributed import process_count
from ...core.errors import DivergedError
from ...core.runtime import stream
from ...core.training import Objective
from . import losses
from .config import BackboneOptions, MethodOptions
from .model import Encoder, Head
from .parallel import Shuffle, gathered, own_part, synchronised
from .queue import Queue

COLLAPSED = 0.1  # of 1/sqrt(d), the spread of embeddings that fill the sphere
LEAST_STEPS = 50  # before a small spread is a collapse: many networks begin with one


class Views(NamedTuple):
    """A batch: clips (rho, B, 3, T, S, S), normalised, and the number of each video (B,)."""

    clips: Tensor
    ids: Tensor


def _full(tensor: Tensor) -> Tensor:
    """Return a tensor of at least single precision: exponentials overflow in half."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True)
class Length:
    """How long a training is: `steps` in all, `epoch` of them per pass, `batch` videos each."""

    steps: int
    epoch: int
    batch: int
    seed: int = 0
    accumulate: int = 1


class Framework(Objective):
    """What the four have in common: the encoder, the count of steps, the watch for a collapse."""

    decay_vectors = False
    calls: Tensor
    low: Tensor

    def __init__(self, backbone: BackboneOptions, options: MethodOptions, length: Length) -> None:
        super().__init__()
        self.options, self.length = options, length
        self.model = Encoder(backbone, options)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("low", torch.zeros((), dtype=torch.int64))

    @property
    def step(self) -> int:
        """The step of the batch at hand, from 0."""
        return int(self.calls) // self.length.accumulate

    def forward(self, batch: Views) -> dict[str, Tensor]:
        """Return the loss and what tells a collapse. Raises `DivergedError` at one."""
        loss, embeddings = self.compare(batch)
        self.calls += 1
        found = {"loss": loss, **self._watch(embeddings)}
        return found

    def compare(self, batch: Views) -> tuple[Tensor, list[Tensor]]:
        """Return the loss and the embeddings (B, d) of each clip."""
        raise NotImplementedError

    @torch.no_grad()
    def _watch(self, embeddings: list[Tensor]) -> dict[str, Tensor]:
        every = [gathered(part.detach().float()) for part in embeddings]
        spread = losses.spread(every[0])
        found = {"std": spread, "uniformity": losses.uniformity(every[0])}
        if len(every) > 1:
            found["alignment"] = losses.alignment(every[0], every[1])
        usual = 1 / math.sqrt(every[0].shape[1])
        self.low.copy_((self.low + 1) * (spread < COLLAPSED * usual))
        patience = max(LEAST_STEPS, self.length.epoch) * self.length.accumulate
        if int(self.low) >= patience:
            raise DivergedError(
                f"the embeddings collapsed: their spread was {float(spread):.2g} for "
                f"{patience} batches, {usual:.2g} is usual",
                "lower --lr, raise --batch-size, or keep the head's norm and the teacher",
            )
        return found

    def start(self, batches: Iterator[Views]) -> None:
        """Prepare for the first step of a new training; `batches` are drawn as in training."""


class SimCLR(Framework):
    """Every two clips of a video against all other videos of the batch, in all processes."""

    def compare(self, batch: Views) -> tuple[Tensor, list[Tensor]]:
        """Return the mean NT-Xent over all rho (rho - 1) / 2 pairs of clips."""
        own = [_full(self.model(clip)) for clip in batch.clips]
        every, ids = [gathered(part) for part in own], gathered(batch.ids)
        pairs = [
            losses.nt_xent(
                own[i], own[j], self.options.temperature, batch.ids, (every[i], every[j], ids)
            )
            for i, j in combinations(range(len(own)), 2)
        ]
        return torch.stack(pairs).mean(), own


class SwAV(Framework):
    """Clips predict the prototypes that other clips of their video are assigned to."""

    def __init__(self, backbone: BackboneOptions, options: MethodOptions, length: Length) -> None:
        super().__init__(backbone, options, length)
        self.prototypes = nn.Linear(options.dim, options.prototypes, bias=False)
        self.frozen = round(options.freeze_prototypes * length.epoch)

    def compare(self, batch: Views) -> tuple[Tensor, list[Tensor]]:
        """Return the cross-entropy of the codes in the other clips' predictions."""
        own = [self.model(clip) for clip in batch.clips]
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        weight = self.prototypes.weight
        if self.step < self.frozen:
            weight = weight.detach() + 0 * weight  # a gradient of zero, as all processes expect one
        scores = [_full(F.linear(F.normalize(part, dim=1), weight)) for part in own]
        options = self.options
        count = 2 if options.codes == "first-two" else len(scores)
        codes = [
            own_part(losses.sinkhorn(gathered(score), options.epsilon, options.sinkhorn_iterations))
            for score in (score.detach() for score in scores[:count])
        ]
        return losses.swav(scores, codes, options.temperature), own


class Taught(Framework):
    """Frameworks with a momentum encoder, whose weights follow those of the encoder.

    The encoder's clips are taken one at a time, forward and backward, so that memory does not
    grow with rho (`sequential`); gradients are those of one large graph.
    """

    def __init__(self, backbone: BackboneOptions, options: MethodOptions, length: Length) -> None:
        super().__init__(backbone, options, length)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)

    def momentum(self) -> float:
        """Return m(k) = 1 - (1 - m0) (cos(pi k / K) + 1) / 2 at this step, or m0 throughout."""
        first = self.options.teacher_momentum or 0.0
        if not self.options.anneal:
            return first
        return 1 - (1 - first) * (math.cos(math.pi * self.step / self.length.steps) + 1) / 2

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher's parameters towards the encoder's; its buffers are its own.

        At the first step they are the same, and a step that is cut into parts moves once.
        """
        own: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(self.teacher.parameters())
        if int(self.calls) == 0:
            torch._foreach_copy_(theirs, own)
        elif int(self.calls) % self.length.accumulate == 0:
            torch._foreach_lerp_(theirs, own, 1 - self.momentum())

    def compare(self, batch: Views) -> tuple[Tensor, list[Tensor]]:
        """Return the mean over the clips of `query_loss`."""
        self.follow()
        with torch.no_grad():
            keys = self.keys(batch)
        compare = self._one_by_one if self.options.sequential else self._together
        loss, embeddings = compare(batch, keys)
        self.remember(keys, batch.ids)
        return loss, embeddings

    def _together(self, batch: Views, keys: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        found = [self.query_loss(i, clip, keys, batch) for i, clip in enumerate(batch.clips)]
        return torch.stack([loss for loss, _ in found]).mean(), [z for _, z in found]

    def _one_by_one(self, batch: Views, keys: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        parameters = [p for p in self.parameters() if p.requires_grad]
        sums: list[Tensor] = []
        embeddings, count = [], len(batch.clips)
        total = batch.clips.new_zeros(())
        for i, clip in enumerate(batch.clips):
            loss, embedding = self.query_loss(i, clip, keys, batch)
            loss = loss / count
            if torch.is_grad_enabled():
                found = torch.autograd.grad(loss, parameters)
                if sums:
                    torch._foreach_add_(sums, found)
                else:
                    sums = [gradient.clone() for gradient in found]
            total += loss.detach()
            embeddings.append(embedding.detach())
        return _Known.apply(total, sums, *parameters), embeddings

    def keys(self, batch: Views) -> list[Tensor]:
        """Return the teacher's embedding (B, d) of every clip."""
        return [self.teacher(clip) for clip in batch.clips]

    def query_loss(
        self, i: int, clip: Tensor, keys: list[Tensor], batch: Views
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of clip i as the query, and its embedding."""
        raise NotImplementedError

    def remember(self, keys: list[Tensor], ids: Tensor) -> None:
        """Keep the keys of a step, where a framework has a use for them."""


class _Known(torch.autograd.Function):
    """A loss whose gradients were computed already: its backward pass hands them out.

    So the loop's scaling and the hooks of DistributedDataParallel see them as they always do.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, *(gradient * outer[0] for gradient in ctx.gradients))


class MoCo(Taught):
    """Each clip finds the teacher's keys of its video's other clips among those of a queue."""

    def __init__(self, backbone: BackboneOptions, options: MethodOptions, length: Length) -> None:
        super().__init__(backbone, options, length)
        self.queue = Queue(options.queue, options.dim, length.batch)

    def keys(self, batch: Views) -> list[Tensor]:
        """Return the keys of every clip; each is encoded among other processes' samples."""
        place = int(self.calls)
        shuffles = [
            Shuffle(len(batch.ids), stream(self.length.seed, 11, place, i))
            for i in range(len(batch.clips))
        ]
        return [
            F.normalize(_full(shuffle.collect(self.teacher(shuffle.deal(clip)))), dim=1)
            for shuffle, clip in zip(shuffles, batch.clips, strict=True)
        ]

    def query_loss(
        self, i: int, clip: Tensor, keys: list[Tensor], batch: Views
    ) -> tuple[Tensor, Tensor]:
        """Return the contrast of clip i with the keys of the others and the queue."""
        query = _full(self.model(clip))
        others = [key for j, key in enumerate(keys) if j != i]
        # The queue is changed before gradients of it would be taken, if all are taken at the end.
        queue = self.queue.keys if self.options.sequential else self.queue.keys.clone()
        same = self.queue.same(batch.ids)
        options = self.options
        loss = losses.moco(query, others, queue, same, options.temperature, options.positives)
        return loss, query

    def remember(self, keys: list[Tensor], ids: Tensor) -> None:
        """Put the keys of all clips, of all processes, into the queue."""
        for key in keys:
            self.queue.push(gathered(key), gathered(ids))

    @torch.no_grad()
    def start(self, batches: Iterator[Views]) -> None:
        """Fill the queue before the first step, as the paper's training does."""
        while bool((self.queue.ids < 0).any()):
            batch = next(batches)
            self.remember(self.keys(batch), batch.ids)


class BYOL(Taught):
    """A predictor on each clip's embedding tells the teacher's embeddings of the other clips."""

    def __init__(self, backbone: BackboneOptions, options: MethodOptions, length: Length) -> None:
        super().__init__(backbone, options, length)
        layers = options.predictor_layers
        self.predictor = Head(
            options.dim, options.hidden, options.dim, layers, bool(options.head_norm)
        )

    def query_loss(
        self, i: int, clip: Tensor, keys: list[Tensor], batch: Views
    ) -> tuple[Tensor, Tensor]:
        """Return minus twice the cosine of prediction i and the other clips' embeddings."""
        embedding = self.model(clip)
        others = [key for j, key in enumerate(keys) if j != i]
        return losses.byol(_full(self.predictor(embedding)), others), embedding


FRAMEWORKS: dict[str, Callable[[BackboneOptions, MethodOptions, Length], Framework]] = {
    "moco": MoCo,
    "byol": BYOL,
    "simclr": SimCLR,
    "swav": SwAV,
}


def build(backbone: BackboneOptions, options: MethodOptions, length: Length) -> Framework:
    """Return the framework that `options` name, its batch norms over all processes if wanted."""
    framework = FRAMEWORKS[options.method](backbone, options, length)
    if options.sync_norm and process_count() > 1:
        synchronised(framework)
    return framework
