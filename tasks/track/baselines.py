"""Trackers without learning: boxes are given, the next frame's are assigned to the tracks.

`iou` matches overlaps with the last box, `cv` with the box moved on at its last velocity, `sort`
with the prediction of a Kalman filter (Bewley et al. 2016), `byte` does so in two rounds, sure
boxes first (Zhang et al. 2022), and `histogram` compares colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from .boxes import Array, centres, iou_matrix
from .config import Baseline
from .motion import Kalman

MIN_IOU = 0.2
SECOND_IOU = 0.5  # ByteTrack's second round
BINS = (8, 4, 4)  # of hue, saturation and value
MIN_LIKENESS = 0.35


@dataclass(frozen=True)
class Moment:
    """One processed frame: its number, time in seconds, boxes (N, 4) in pixels with scores (N,).

    `image` is uint8 (H, W, 3), where the tracker looks at it.
    """

    frame: int
    time_s: float
    boxes: Array
    scores: Array
    image: Array | None = None


class Associator(Protocol):
    """What gives identities to boxes, frame by frame."""

    def step(self, moment: Moment) -> Array:
        """Return the identity of each box, int64 (N,); 0 where a box gets none."""


@dataclass
class _Tracks:
    """The live tracks as columns."""

    identity: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: Array = field(default_factory=lambda: np.zeros((0, 4)))
    velocity: Array = field(default_factory=lambda: np.zeros((0, 4)))
    seen_s: Array = field(default_factory=lambda: np.zeros(0))
    misses: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    hits: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    colours: Array = field(default_factory=lambda: np.zeros((0, int(np.prod(BINS)))))

    def __len__(self) -> int:
        return len(self.identity)

    def keep(self, chosen: Array) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[chosen])

    def append(self, moment: Moment, rows: Array, first: int, colours: Array) -> None:
        fresh = _Tracks(
            first + np.arange(len(rows)),
            moment.boxes[rows],
            np.zeros((len(rows), 4)),
            np.full(len(rows), moment.time_s),
            np.zeros(len(rows), np.int64),
            np.ones(len(rows), np.int64),
            colours[rows],
        )
        for name, values in vars(self).items():
            setattr(self, name, np.concatenate((values, getattr(fresh, name))))


class Assigner:
    """A baseline tracker.

    A track is dropped when it was not seen for more than `max_age_s` seconds, but never before
    it was missed twice. Boxes below `birth` start no track (`byte` also matches those above
    `low` in its second round).
    """

    def __init__(
        self, method: Baseline, max_age_s: float = 1.0, birth: float = 0.6, low: float = 0.1
    ) -> None:
        self.method, self.max_age_s = method, max_age_s
        self.birth, self.low = birth, low
        self.tracks, self.filters = _Tracks(), Kalman()
        self.next, self.time_s = 1, 0.0

    def step(self, moment: Moment) -> Array:
        """Return the identity of each box, int64 (N,); 0 where a box gets none."""
        expected = self._expected(moment.time_s)
        colours = self._colours(moment)
        identity = np.zeros(len(moment.boxes), dtype=np.int64)
        sure = moment.scores >= self.birth
        rows, columns = self._match(expected, moment.boxes, colours, sure, MIN_IOU)
        if self.method == "byte":
            rows, columns = self._second_round(expected, moment, rows, columns)
        self._update(moment, rows, columns, colours)
        identity[columns] = self.tracks.identity[rows]
        fresh = np.flatnonzero(sure & (identity == 0))
        identity[fresh] = self.next + np.arange(len(fresh))
        missed = np.ones(len(self.tracks), dtype=bool)
        missed[rows] = False
        self.tracks.misses[missed] += 1
        age = moment.time_s - self.tracks.seen_s
        alive = (age <= self.max_age_s + 1e-9) | (self.tracks.misses <= 1)
        self.tracks.keep(alive)
        self.filters.keep(alive)
        self.tracks.append(moment, fresh, self.next, colours)
        self.filters.append(moment.boxes[fresh])
        self.next += len(fresh)
        self.time_s = moment.time_s
        return identity

    def _expected(self, time_s: float) -> Array:
        """Return where each track's box is looked for, (tracks, 4)."""
        if self.method == "cv":
            age = (time_s - self.tracks.seen_s)[:, None]
            return self.tracks.boxes + age * self.tracks.velocity
        if self.method in ("sort", "byte"):
            return self.filters.predict(time_s - self.time_s)
        return self.tracks.boxes

    def _colours(self, moment: Moment) -> Array:
        if self.method != "histogram" or moment.image is None:
            return np.zeros((len(moment.boxes), int(np.prod(BINS))))
        return histograms(moment.image, moment.boxes)

    def _match(
        self, expected: Array, boxes: Array, colours: Array, allowed: Array, least: float
    ) -> tuple[Array, Array]:
        """Return (tracks, boxes) of the best assignment whose pairs reach `least`."""
        if self.method == "histogram":
            quality, least = self._likeness(boxes, colours), MIN_LIKENESS
        else:
            quality = iou_matrix(expected, boxes)
        quality = np.where(allowed[None, :], quality, 0)
        return assign(quality, least)

    def _likeness(self, boxes: Array, colours: Array) -> Array:
        """Return the overlap of colour histograms times a bell of the distance in box heights."""
        common = np.sqrt(self.tracks.colours)[:, None] * np.sqrt(colours)[None]
        apart = centres(self.tracks.boxes)[:, None] - centres(boxes)[None]
        heights = np.maximum(self.tracks.boxes[:, 3], 1)[:, None]
        near = np.exp(-0.5 * (np.hypot(apart[..., 0], apart[..., 1]) / (1.5 * heights)) ** 2)
        return common.sum(-1) * near

    def _second_round(
        self, expected: Array, moment: Moment, rows: Array, columns: Array
    ) -> tuple[Array, Array]:
        """Let tracks that found nothing look among the doubtful boxes."""
        left = np.setdiff1d(np.arange(len(self.tracks)), rows)
        doubtful = (moment.scores >= self.low) & (moment.scores < self.birth)
        quality = iou_matrix(expected[left], moment.boxes) * doubtful[None, :]
        more, where = assign(quality, SECOND_IOU)
        return np.concatenate((rows, left[more])), np.concatenate((columns, where))

    def _update(self, moment: Moment, rows: Array, columns: Array, colours: Array) -> None:
        tracks = self.tracks
        gap = np.maximum(moment.time_s - tracks.seen_s[rows], 1e-9)[:, None]
        velocity = (moment.boxes[columns] - tracks.boxes[rows]) / gap
        settled = tracks.hits[rows][:, None] > 1
        tracks.velocity[rows] = np.where(
            settled, 0.5 * (tracks.velocity[rows] + velocity), velocity
        )
        tracks.hits[rows] += 1
        tracks.boxes[rows] = moment.boxes[columns]
        tracks.seen_s[rows], tracks.misses[rows] = moment.time_s, 0
        tracks.colours[rows] = 0.7 * tracks.colours[rows] + 0.3 * colours[columns]
        if self.method in ("sort", "byte") and len(rows):
            self.filters.update(rows, moment.boxes[columns])


def assign(quality: Array, least: float) -> tuple[Array, Array]:
    """Return (rows, columns) of the best assignment, without its pairs below `least`."""
    rows, columns = linear_sum_assignment(-quality)
    good = quality[rows, columns] >= max(least, 1e-12)
    return rows[good], columns[good]


def histograms(image: Array, boxes: Array) -> Array:
    """Return the HSV histogram of each box's middle, rows that sum to 1, (N, 8 * 4 * 4)."""
    from PIL import Image

    height, width = image.shape[:2]
    bins = int(np.prod(BINS))
    found = np.full((len(boxes), bins), 1 / bins)
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.int64)
    hue, saturation, value = (hsv[..., k] * BINS[k] // 256 for k in range(3))
    code = (hue * BINS[1] + saturation) * BINS[2] + value
    for i, (left, top, wide, tall) in enumerate(boxes):
        # The middle three fifths hold less background.
        x = np.clip([left + 0.2 * wide, left + 0.8 * wide], 0, width).astype(int)
        y = np.clip([top + 0.1 * tall, top + 0.9 * tall], 0, height).astype(int)
        patch = code[y[0] : y[1], x[0] : x[1]]
        if patch.size:
            found[i] = np.bincount(patch.reshape(-1), minlength=bins) / patch.size
    return found
