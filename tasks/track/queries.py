"""The queries of one frame: which are in it, in which order, and who may see whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrackQueries:
    """What the live tracks bring to the next frame: n tracks, at most `bank` - 1 histories each.

    `main` (n, d) carries the gradient; `history` (n, bank - 1, d), detached, holds older contents,
    the newest last, where `held` (n, bank - 1) is True; `boxes` (n, 4) are the latest ones
    (cx, cy, w, h), detached, `moved` (n, 4) their last change. `identity` (n,) names the tracks.
    """

    main: Tensor
    history: Tensor
    held: Tensor
    boxes: Tensor
    moved: Tensor
    identity: Tensor

    def __len__(self) -> int:
        return len(self.main)

    @staticmethod
    def none(dim: int, bank: int, device: torch.device | None = None) -> TrackQueries:
        """Return no tracks."""
        return TrackQueries.born(
            torch.zeros(0, dim, device=device),
            torch.zeros(0, 4, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
            bank,
        )

    @staticmethod
    def born(content: Tensor, boxes: Tensor, identity: Tensor, bank: int) -> TrackQueries:
        """Return new tracks, without history."""
        count, dim = content.shape
        return TrackQueries(
            content,
            content.new_zeros(count, bank - 1, dim),
            torch.zeros(count, bank - 1, dtype=torch.bool, device=content.device),
            boxes.detach(),
            torch.zeros_like(boxes),
            identity,
        )

    def take(self, chosen: Tensor) -> TrackQueries:
        """Return some tracks (indices, or bool)."""
        return TrackQueries(**{name: values[chosen] for name, values in vars(self).items()})

    def join(self, other: TrackQueries) -> TrackQueries:
        """Return the tracks of both."""
        pairs = ((name, (value, getattr(other, name))) for name, value in vars(self).items())
        return TrackQueries(**{name: torch.cat(both) for name, both in pairs})

    def advance(self, content: Tensor, boxes: Tensor) -> TrackQueries:
        """Return the tracks after a frame: new leading contents (n, d) and boxes (n, 4)."""
        boxes = boxes.detach()
        after = replace(self, main=content, boxes=boxes, moved=boxes - self.boxes)
        if self.history.shape[1] == 0:
            return after
        history = torch.cat((self.history[:, 1:], self.main.detach()[:, None]), dim=1)
        held = torch.cat((self.held[:, 1:], torch.ones_like(self.held[:, :1])), dim=1)
        return replace(after, history=history, held=held)

    def owners(self) -> Tensor:
        """Return the track of each historical query, in their order, int64 (h,)."""
        return self.held.nonzero()[:, 0]


@dataclass(frozen=True)
class Denoising:
    """Noisy copies of the truth for training: `groups` isolated groups of P positives, then P
    negatives. `target` (D,) is the object of each query, `positive` (D,) bool."""

    content: Tensor
    anchors: Tensor
    group: Tensor
    target: Tensor
    positive: Tensor
    groups: int

    def __len__(self) -> int:
        return len(self.content)


def attention_mask(
    noise_group: Tensor, detects: int, track: Tensor, blocking: bool = True, apart: bool = False
) -> Tensor:
    """Return who may not see whom in self-attention, bool (Q, Q), True = blocked.

    Order of the queries: denoising (their groups `noise_group`, (D,)), `detects` detect queries,
    main and historical ones (their tracks `track`, (n + h,)). Denoising groups see themselves and
    the rest; nobody else sees them. The queries of one track do not see one another: the
    temporal blocking of ColTrack, which `blocking` False switches off. With `apart` detect queries
    do not see the tracks (not in the paper).
    """
    noise, tracks = len(noise_group), len(track)
    start = noise + detects
    blocked = torch.zeros(start + tracks, start + tracks, dtype=torch.bool, device=track.device)
    blocked[:noise, :noise] = noise_group[:, None] != noise_group[None]
    blocked[noise:, :noise] = True
    blocked[noise:start, start:] = apart
    if blocking:
        same = track[:, None] == track[None]
        blocked[start:, start:] = same & ~torch.eye(tracks, dtype=torch.bool, device=track.device)
    return blocked


@dataclass(frozen=True)
class Assembled:
    """All queries of a frame: content (Q, d), boxes (Q, 4), the mask, and the counts of the parts.

    `track` (n + h,) is the track of each main and historical query.
    """

    content: Tensor
    boxes: Tensor
    blocked: Tensor
    track: Tensor
    noise: int
    detects: int
    mains: int

    @property
    def first_track(self) -> int:
        """Place of the first main query."""
        return self.noise + self.detects

    @property
    def has_history(self) -> bool:
        """True when at least one track has a historical query."""
        return len(self.track) > self.mains

    @property
    def strangers(self) -> Tensor:
        """Where refinement may not look: at other tracks, bool (n + h, n + h)."""
        return self.track[:, None] != self.track[None]


def assemble(
    content: Tensor,
    boxes: Tensor,
    tracks: TrackQueries,
    denoising: Denoising | None,
    blocking: bool,
    apart: bool = False,
) -> Assembled:
    """Put denoising, detect (content (N, d), boxes (N, 4)), main and historical queries together.

    The historical queries of a track start from its latest box, like its main query.
    """
    owners = tracks.owners()
    parts = [content, tracks.main, tracks.history[tracks.held]]
    anchors = [boxes, tracks.boxes, tracks.boxes[owners]]
    group = owners.new_zeros(0)
    if denoising is not None:
        parts.insert(0, denoising.content)
        anchors.insert(0, denoising.anchors)
        group = denoising.group
    track = torch.cat((torch.arange(len(tracks), device=owners.device), owners))
    blocked = attention_mask(group, len(content), track, blocking, apart)
    return Assembled(
        torch.cat(parts), torch.cat(anchors), blocked, track, len(group), len(content), len(tracks)
    )
