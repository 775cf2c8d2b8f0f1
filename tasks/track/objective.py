"""The loss of a clip: frames in order, tracks handed on, one normaliser for the whole clip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.distributed import process_count
from ...core.training import Objective
from .config import ClipOptions
from .decoder import Decoded, Memory
from .denoising import make_denoising
from .geometry import overlaps, to_box
from .likeness import likeness_loss
from .losses import BOX, CLASS, FALSE, GIOU, Terms, Truth, inherit, match, set_losses
from .model import ColTrack, Frame, Given
from .queries import Denoising, TrackQueries


class Clip(NamedTuple):
    """Frames of one video in order: images (L, 3, H, W), or what frozen parts made of them: the
    backbone's maps, or the encoder's memory."""

    frames: Tensor | list[Tensor] | Memory
    truths: list[Truth]


class Sums:
    """Losses of a clip and what they are divided by."""

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.objects = 0
        self.inherited = 0

    def add(self, name: str, value: Tensor) -> None:
        """Add a frame's loss, not yet normalised."""
        self.terms[name] = self.terms[name] + value if name in self.terms else value

    def result(self) -> dict[str, Tensor]:
        """Return the parts divided by the clip's objects (consistency: inherited pairs)."""
        parts = {
            name: value / max(1, self.inherited if name == "consistency" else self.objects)
            for name, value in self.terms.items()
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class ClipLoss(Objective):
    """Follows the tracks through clips as the method does, and sums the losses on the way."""

    model: ColTrack

    def __init__(self, model: ColTrack, options: ClipOptions) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def rates(self) -> dict[str, float]:
        """Train the backbone at a tenth of the rate, where it started from something.

        What shares given boxes out is new and shallow, and waits for nobody.
        """
        pretrained = self.model.options.backbone != "conv"
        return {"given_likeness": 10.0} | ({"pyramid.backbone": 0.1} if pretrained else {})

    def forward(self, batch: list[Clip]) -> dict[str, Tensor]:
        """Return the mean losses of the clips."""
        found = [self.clip(clip) for clip in batch]
        names = dict.fromkeys(name for losses in found for name in losses)
        means = {
            name: torch.stack([losses[name] for losses in found if name in losses]).mean()
            for name in names
        }
        if process_count() > 1:
            # Clips without history or noise leave parameters out; processes must agree on all.
            trained = [p.sum() for p in self.parameters() if p.requires_grad]
            means["loss"] = means["loss"] + 0 * torch.stack(trained).sum()
        return means

    def clip(self, clip: Clip) -> dict[str, Tensor]:
        """Return the losses of one clip."""
        memory = self.model.remember(clip.frames)
        sums, tracks = Sums(), self.model.no_tracks(memory.tokens.device)
        for place, truth in enumerate(clip.truths):
            denoising = make_denoising(
                truth.boxes, truth.labels, self.model.label_enc, self.options.noise_pairs
            )
            given, where = None, None
            if self.options.proposals:
                given, where = offered(truth, self.options.box_noise)
            frame = self.model.decode(memory.frame(place), tracks, given, denoising)
            target, inherited = assign(frame, tracks, truth)
            self.add_frame(sums, frame, truth, denoising, target, inherited)
            if given is not None and where is not None and len(tracks):
                logits = self.model.likeness(frame, tracks, given)
                sums.add("likeness", likeness_loss(logits, where[inherited]))
            taken = target[-1] if where is None else where[target[-1]]
            tracks = self.hand_on(frame, tracks, truth, target[-1], *frame.settled(taken, given))
        return sums.result()

    def add_frame(
        self,
        sums: Sums,
        frame: Frame,
        truth: Truth,
        denoising: Denoising | None,
        target: Tensor,
        inherited: Tensor,
    ) -> None:
        """Add the losses of one frame."""
        sums.objects += len(truth.boxes)
        sums.inherited += int((inherited >= 0).sum())
        leading = set_losses(frame.leading.logits, frame.leading.boxes, truth, target)
        for name, value in _named(leading):
            sums.add(name, value)
        if frame.proposals is not None and self.options.stage != "track":
            logits, boxes = frame.proposals.logits, frame.proposals.anchors
            sums.add("proposals", proposal_loss(logits, boxes, truth))
        if denoising is not None:
            hits = torch.where(denoising.positive, denoising.target, -1)
            sums.add("noise", _total(frame.noise, truth, hits) / denoising.groups)
        historical = frame.historical
        if self.options.toc and len(historical.content):
            owner = frame.queries.track[frame.queries.mains :]
            sums.add("consistency", _total(historical, truth, inherited[owner]))

    @torch.no_grad()
    def _survivors(self, boxes: Tensor, truth: Truth, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the leading queries that go on as tracks, and those that pose as tracks."""
        hits = target >= 0
        quality = torch.zeros_like(boxes[:, 0])
        objects = truth.boxes[target[hits]]
        quality[hits] = overlaps(boxes[hits], objects).diagonal()
        kept = quality > self.options.gate
        kept &= torch.rand(len(kept), device=kept.device) >= self.options.track_drop
        chosen, idle = kept.nonzero()[:, 0], (~hits).nonzero()[:, 0]
        faked = torch.rand(len(chosen), device=kept.device) < self.options.false_tracks
        if len(idle) == 0 or not bool(faked.any()):
            return chosen, idle[:0]
        nearest = overlaps(boxes[chosen[faked]], boxes[idle]).argmax(1)
        return chosen, idle[nearest.unique()]

    def hand_on(
        self,
        frame: Frame,
        tracks: TrackQueries,
        truth: Truth,
        target: Tensor,
        content: Tensor,
        boxes: Tensor,
    ) -> TrackQueries:
        """Return the tracks of the next frame (target (N + n,) of the last layer).

        Leading queries go on with `content` (N + n, d) and `boxes` (N + n, 4), if these hold their
        object by more than `gate`; some are dropped, and for some the idle query next to them goes
        on too, as a false track.
        """
        chosen, false = self._survivors(boxes, truth, target)
        detects = frame.queries.detects
        old, new = chosen[chosen >= detects], chosen[chosen < detects]
        bank = tracks.history.shape[1] + 1
        went = tracks.take(old - detects).advance(content[old], boxes[old])
        born = TrackQueries.born(content[new], boxes[new], truth.identity[target[new]], bank)
        nobody = torch.full_like(false, FALSE)
        posing = TrackQueries.born(content[false], boxes[false], nobody, bank)
        return went.join(born).join(posing)


def offered(truth: Truth, noise: float) -> tuple[Given, Tensor]:
    """Return boxes as a detector would give them, and the place of each object among them.

    Boxes are moved and scaled by up to the share `noise`, that share of them is lost, and
    false ones stand beside that share. The places (T + 1,) are -1 for lost objects and, at the
    end (which -1 reaches), for none.
    """
    count = len(truth.boxes)

    def around(boxes: Tensor, share: float) -> Tensor:
        size = boxes[:, 2:]
        centre = boxes[:, :2] + share * size * (2 * torch.rand_like(size) - 1)
        return torch.cat((centre, size * (noise * (2 * torch.rand_like(size) - 1)).exp()), -1)

    draws = torch.rand(2, count, device=truth.boxes.device)
    kept, beside = (draws[0] >= noise).nonzero()[:, 0], draws[1] < noise
    boxes = torch.cat((around(truth.boxes[kept], noise), around(truth.boxes[beside], 1.5)))
    where = torch.full((count + 1,), -1, dtype=torch.int64, device=boxes.device)
    where[kept] = torch.arange(len(kept), device=boxes.device)
    return Given(boxes, torch.ones_like(boxes[:, 0])), where


def assign(frame: Frame, tracks: TrackQueries, truth: Truth) -> tuple[Tensor, Tensor]:
    """Return each leading query's object per layer (L, N + n), and each track's (n,); -1 = none.

    Tracks keep their objects; detect queries are matched with the objects that no track holds.
    """
    inherited = inherit(tracks.identity, truth)
    covered = torch.zeros(len(truth.boxes), dtype=torch.bool, device=inherited.device)
    covered[inherited[inherited >= 0]] = True
    detects = frame.queries.detects
    logits, boxes = frame.leading.logits[:, :detects], frame.leading.boxes[:, :detects]
    fresh = match(logits, boxes, truth, (~covered).nonzero()[:, 0])
    return torch.cat((fresh, inherited.expand(len(fresh), -1)), dim=1), inherited


def proposal_loss(logits: Tensor, anchors: Tensor, truth: Truth) -> Tensor:
    """Return the loss of the encoder's proposals, matched with all objects of the frame."""
    boxes = to_box(anchors)
    target = match(logits, boxes, truth, torch.arange(len(truth.boxes), device=logits.device))
    return set_losses(logits, boxes, truth, target).total


def _total(part: Decoded, truth: Truth, target: Tensor) -> Tensor:
    """Return the loss of queries whose objects (Q,) are the same in all layers."""
    return set_losses(part.logits, part.boxes, truth, target.expand(len(part.logits), -1)).total


def _named(terms: Terms) -> list[tuple[str, Tensor]]:
    """Return the weighted parts of the main loss with their names in the log."""
    return [
        ("class", CLASS * terms.classes),
        ("box", BOX * terms.boxes),
        ("giou", GIOU * terms.overlap),
    ]
