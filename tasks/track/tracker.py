"""The life of a query at inference: born, kept, missed, ended (ColTrack)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .decoder import Memory
from .geometry import distinct, overlaps
from .likeness import share_out
from .model import ColTrack, Frame, Given
from .queries import TrackQueries


class Seen(NamedTuple):
    """The objects of a frame: `identity` (n,), `boxes` (n, 4) (cx, cy, w, h), `scores`, `labels`.

    `labels` count from 0. `given` (n,) is the place among the given boxes, or -1.
    """

    identity: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    given: Tensor


class QueryTracker:
    """Follows objects through one video, frame by frame; a new video needs a new tracker.

    A detect query whose score reaches `thresh` is born; a track below it is missed, and ends when
    it was not seen for more than `max_age_s` seconds (but never at its first miss). Missed tracks
    are still updated. Of two finds of one class that overlap by more than `nms` one is seen: the
    track that was seen in the last frame, then a missed one, then a new one, and among these the
    one of higher score. With `confirm` above 0 detect queries do not see the tracks, and what they
    find gives its score to the track that it overlaps by more than this, in the place of being
    born. Given boxes go to the tracks that they are likest to, and what no track takes is born
    where its score reaches `thresh`.
    """

    def __init__(
        self,
        model: ColTrack,
        thresh: float = 0.6,
        max_age_s: float = 1.0,
        bank: int = 0,
        nms: float = 1.0,
        confirm: float = 0.0,
    ) -> None:
        self.model, self.thresh, self.max_age_s = model, thresh, max_age_s
        self.nms, self.confirm = nms, confirm
        device = next(model.parameters()).device
        self.tracks = TrackQueries.none(model.options.dim, bank or model.options.bank, device)
        self.seen_s = torch.zeros(0, dtype=torch.float64, device=device)
        self.misses = torch.zeros(0, dtype=torch.int64, device=device)
        self.next = 1

    @torch.no_grad()
    def step(self, memory: Memory, time_s: float, given: Given | None = None) -> Seen:
        """Return what is seen in a frame (memory with B = 1) at `time_s` seconds."""
        apart = given is None and self.confirm > 0
        frame = self.model.decode(memory, self.tracks, given, last_only=True, apart=apart)
        leading, detects = frame.leading, frame.queries.detects
        scores, labels = leading.logits[-1].sigmoid().max(-1)
        if apart:
            scores = self._confirmed(leading.boxes[-1], scores, labels)
        if given is None:
            hit, place = self._hits(leading.boxes[-1], scores, labels), torch.full_like(labels, -1)
        else:
            hit, place = self._claim(frame, given)
            scores = scores.masked_scatter(hit, given.scores[place[hit]].to(scores.dtype))
        content, boxes = frame.settled(place, given)
        if given is not None:
            boxes = self._moved_on(boxes, place)
        self.tracks = self.tracks.advance(content[detects:], boxes[detects:])
        seen = hit[detects:]
        self.seen_s[seen], self.misses[seen] = time_s, 0
        self.misses[~seen] += 1
        born = hit[:detects].nonzero()[:, 0]
        fresh = self.next + torch.arange(len(born), device=born.device)
        identity = torch.cat((torch.zeros_like(labels[:detects]), self.tracks.identity))
        identity[born] = fresh
        self._append(content[born], boxes[born], fresh, time_s)
        self._end(time_s)
        return Seen(identity[hit], boxes[hit], scores[hit], labels[hit], place[hit])

    def _confirmed(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the scores (N + n,) after finds gave theirs to tracks, one to one."""
        detects = len(scores) - len(self.tracks)
        finds = (scores[:detects] >= self.thresh).nonzero()[:, 0]
        finds = finds[distinct(boxes[finds], labels[finds], scores[finds], self.nms)]
        alike = overlaps(boxes[detects:], boxes[finds])
        alike = alike.where(labels[detects:, None] == labels[finds], 0) - self.confirm
        place = share_out(alike)
        held = (place >= 0).nonzero()[:, 0]
        lent = finds[place[held]]
        settled = torch.zeros_like(scores)
        settled[finds], settled[detects:] = scores[finds], scores[detects:]
        settled[detects + held] = scores[detects + held].maximum(scores[lent])
        settled[lent] = 0
        return settled

    def _hits(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Return which queries found something that no better one found, bool (N + n,)."""
        rank = torch.zeros(len(scores), device=scores.device)
        rank[len(scores) - len(self.tracks) :] = 1.0 + (self.misses == 0)
        priority, hit = rank + scores, scores >= self.thresh
        place = hit.nonzero()[:, 0]
        hit[place] = distinct(boxes[place], labels[place], priority[place], self.nms)
        return hit

    def _claim(self, frame: Frame, given: Given) -> tuple[Tensor, Tensor]:
        """Share the given boxes out: (which queries have one, its place or -1), both (N + n,)."""
        detects = torch.arange(len(given.boxes), device=given.boxes.device)
        tracks = share_out(self.model.likeness(frame, self.tracks, given))
        new = (given.scores >= self.thresh) & ~torch.isin(detects, tracks)
        place = torch.cat((torch.where(new, detects, -1), tracks))  # detect query i: given box i
        return place >= 0, place

    def _moved_on(self, boxes: Tensor, place: Tensor) -> Tensor:
        """Return the boxes (N + n, 4) with those of tracks that took none moved on as before."""
        tracks = self.tracks
        first = len(boxes) - len(tracks)
        onward = torch.cat((boxes[:first], (tracks.boxes + tracks.moved).to(boxes.dtype)))
        return torch.where((place >= 0)[:, None], boxes, onward)

    def _append(self, content: Tensor, boxes: Tensor, identity: Tensor, time_s: float) -> None:
        bank = self.tracks.history.shape[1] + 1
        self.tracks = self.tracks.join(TrackQueries.born(content, boxes, identity, bank))
        count = len(identity)
        self.seen_s = torch.cat((self.seen_s, self.seen_s.new_full((count,), time_s)))
        self.misses = torch.cat((self.misses, self.misses.new_zeros(count)))
        self.next += count

    def _end(self, time_s: float) -> None:
        """Release the tracks that were missed for too long."""
        alive = (time_s - self.seen_s <= self.max_age_s + 1e-9) | (self.misses <= 1)
        self.tracks = self.tracks.take(alive)
        self.seen_s, self.misses = self.seen_s[alive], self.misses[alive]
