"""HOTA, CLEAR and Identity metrics, with the conventions of TrackEval.

HOTA: Luiten et al., IJCV 2021. CLEAR MOT: Bernardin and Stiefelhagen 2008. IDF1: Ristani et
al. 2016. Counts of several sequences add up, so that the combined scores are those of one long
sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .boxes import Array, iou_matrix
from .formats import DISTRACTORS, PERSON, Rows, make_rows

ALPHAS = np.arange(0.05, 0.99, 0.05)  # localisation thresholds of HOTA
MATCH_IOU = 0.5  # threshold of CLEAR and Identity
_EPS = np.finfo(np.float64).eps


def _zeros() -> Array:
    return np.zeros(len(ALPHAS))


@dataclass(frozen=True)
class Scores:
    """Counts from which all metrics follow; they add up over sequences.

    The HOTA counts are arrays over `ALPHAS`; `association*` are sums over true positives of the
    association score, recall and precision; `located` sums the overlaps.
    """

    hota_tp: Array = field(default_factory=_zeros)
    hota_fn: Array = field(default_factory=_zeros)
    hota_fp: Array = field(default_factory=_zeros)
    association: Array = field(default_factory=_zeros)
    association_recall: Array = field(default_factory=_zeros)
    association_precision: Array = field(default_factory=_zeros)
    located: Array = field(default_factory=_zeros)
    tp: int = 0
    fn: int = 0
    fp: int = 0
    switches: int = 0
    fragments: int = 0
    overlap: float = 0.0
    idtp: int = 0
    idfn: int = 0
    idfp: int = 0

    def __add__(self, other: Scores) -> Scores:
        names = [item.name for item in fields(self)]
        return Scores(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def summary(self) -> dict[str, float]:
        """Return percentages (HOTA, DetA, AssA, LocA, MOTA, MOTP, IDF1, ...) and counts."""
        assert len(self.hota_tp) == len(ALPHAS)
        found = np.maximum(1, self.hota_tp)
        deta = self.hota_tp / np.maximum(1, self.hota_tp + self.hota_fn + self.hota_fp)
        assa = self.association / found
        loca = np.maximum(1e-10, self.located) / np.maximum(1e-10, self.hota_tp)
        truth, claimed = max(1, self.tp + self.fn), max(1, self.tp + self.fp)
        idf1 = self.idtp / max(1.0, self.idtp + 0.5 * self.idfp + 0.5 * self.idfn)
        shares = {
            "HOTA": float(np.sqrt(deta * assa).mean()),
            "DetA": float(deta.mean()),
            "AssA": float(assa.mean()),
            "AssRe": float((self.association_recall / found).mean()),
            "AssPr": float((self.association_precision / found).mean()),
            "LocA": float(loca.mean()),
            "MOTA": (self.tp - self.fp - self.switches) / truth,
            "MOTP": self.overlap / max(1, self.tp),
            "Recall": self.tp / truth,
            "Precision": self.tp / claimed,
            "IDF1": idf1,
            "IDR": self.idtp / max(1, self.idtp + self.idfn),
            "IDP": self.idtp / max(1, self.idtp + self.idfp),
        }
        counts = {"IDSW": self.switches, "Frag": self.fragments, "FP": self.fp, "FN": self.fn}
        return {name: 100 * value for name, value in shares.items()} | {
            name: float(value) for name, value in counts.items()
        }


@dataclass(frozen=True)
class _Frames:
    """Identities 0..n-1 per frame, and the overlaps between them, (truth, found) per frame."""

    truth: list[Array]
    found: list[Array]
    overlaps: list[Array]
    truths: int
    founds: int


def score_sequence(truth: Rows, found: Rows, frames: Sequence[int]) -> Scores:
    """Compare results with the ground truth of one sequence on the frames that were processed.

    `truth` holds also the rows that do not count: a result that lies on a distractor (MOT16+) is
    dropped, as the benchmark does; rows of MOT15 with conf 0 are left out without that.
    """
    data = _align(truth, found, frames)
    if not data.truths or not data.founds:
        missed, extra = sum(map(len, data.truth)), sum(map(len, data.found))
        return Scores(hota_fn=_zeros() + missed, hota_fp=_zeros() + extra, located=_zeros(),
                      fn=missed, fp=extra, idfn=missed, idfp=extra)  # fmt: skip
    return Scores(**_hota(data), **_clear(data), **_identity(data))


def _align(truth: Rows, found: Rows, frames: Sequence[int]) -> _Frames:
    """Drop what does not count and number the identities from 0."""
    kept: list[tuple[Rows, Rows, Array]] = []
    for frame in frames:
        here, there = truth.at(frame), found.at(frame)
        overlaps = iou_matrix(here.boxes, there.boxes)
        wanted = here.valid & (here.category == PERSON)
        stays = ~_on_distractors(here, overlaps)
        kept.append((here[wanted], there[stays], overlaps[wanted][:, stays]))
    truths = _distinct([here.identity for here, _, _ in kept])
    founds = _distinct([there.identity for _, there, _ in kept])
    return _Frames(
        [np.searchsorted(truths, here.identity) for here, _, _ in kept],
        [np.searchsorted(founds, there.identity) for _, there, _ in kept],
        [overlaps for _, _, overlaps in kept],
        len(truths),
        len(founds),
    )


def _distinct(identities: Sequence[Array]) -> Array:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *identities]))


def _on_distractors(truth: Rows, overlaps: Array) -> Array:
    """Return which results are best matched by a distractor, bool (found,)."""
    dropped = np.zeros(overlaps.shape[1], dtype=bool)
    distracts = np.isin(truth.category, DISTRACTORS)
    if distracts.any() and overlaps.size:
        scores = np.where(overlaps < MATCH_IOU - _EPS, 0, overlaps)
        rows, columns = linear_sum_assignment(-scores)
        matched = scores[rows, columns] > _EPS
        dropped[columns[matched & distracts[rows]]] = True
    return dropped


def _hota(data: _Frames) -> dict[str, Any]:
    together = np.zeros((data.truths, data.founds))
    truths, founds = np.zeros(data.truths), np.zeros(data.founds)
    for here, there, overlaps in zip(data.truth, data.found, data.overlaps, strict=True):
        union = overlaps.sum(0)[None, :] + overlaps.sum(1)[:, None] - overlaps
        share = np.divide(overlaps, union, out=np.zeros_like(overlaps), where=union > _EPS)
        together[here[:, None], there[None, :]] += share
        truths[here] += 1
        founds[there] += 1
    alignment = together / (truths[:, None] + founds[None, :] - together)
    matches = np.zeros((len(ALPHAS), data.truths, data.founds))
    tp, located = _zeros(), _zeros()
    for here, there, overlaps in zip(data.truth, data.found, data.overlaps, strict=True):
        rows, columns = linear_sum_assignment(-alignment[here[:, None], there[None, :]] * overlaps)
        values = overlaps[rows, columns]
        good = values[None, :] >= ALPHAS[:, None] - _EPS  # (alphas, pairs)
        matches[:, here[rows], there[columns]] += good
        tp += good.sum(1)
        located += (good * values).sum(1)
    either = np.maximum(1, truths[:, None] + founds[None, :] - matches)
    return {
        "hota_tp": tp,
        "hota_fn": truths.sum() - tp,
        "hota_fp": founds.sum() - tp,
        "association": (matches * matches / either).sum((1, 2)),
        "association_recall": (matches**2 / np.maximum(1, truths[:, None])).sum((1, 2)),
        "association_precision": (matches**2 / np.maximum(1, founds[None, :])).sum((1, 2)),
        "located": located,
    }


def _clear(data: _Frames) -> dict[str, Any]:
    """Match frame by frame, preferring the pairs of the frame before."""
    last = np.full(data.truths, -1)  # the last identity of each truth, however long ago
    before = np.full(data.truths, -1)  # its identity in the frame before
    matched_frames, runs = np.zeros(data.truths, int), np.zeros(data.truths, int)
    tp = switches = 0
    overlap = 0.0
    total_truth, total_found = sum(map(len, data.truth)), sum(map(len, data.found))
    for here, there, overlaps in zip(data.truth, data.found, data.overlaps, strict=True):
        if not len(here):
            continue  # TrackEval's convention: such a frame breaks no continuity
        if not len(there):
            before[:] = -1
            continue
        kept = there[None, :] == before[here][:, None]
        scores = np.where(overlaps < MATCH_IOU - _EPS, 0, 1000 * kept + overlaps)
        rows, columns = linear_sum_assignment(-scores)
        good = scores[rows, columns] > _EPS
        truth, found = here[rows[good]], there[columns[good]]
        switches += int(((last[truth] >= 0) & (last[truth] != found)).sum())
        matched_frames[truth] += 1
        fresh = before[truth] < 0
        runs[truth[fresh]] += 1
        last[truth] = found
        before[:] = -1
        before[truth] = found
        tp += len(truth)
        overlap += float(overlaps[rows[good], columns[good]].sum())
    return {
        "tp": tp,
        "fn": total_truth - tp,
        "fp": total_found - tp,
        "switches": switches,
        "fragments": int(np.maximum(runs - 1, 0).sum()),
        "overlap": overlap,
    }


def _identity(data: _Frames) -> dict[str, Any]:
    """Match whole identities one to one so that most boxes agree."""
    together = np.zeros((data.truths, data.founds))
    truths, founds = np.zeros(data.truths), np.zeros(data.founds)
    for here, there, overlaps in zip(data.truth, data.found, data.overlaps, strict=True):
        together[here[:, None], there[None, :]] += overlaps >= MATCH_IOU
        truths[here] += 1
        founds[there] += 1
    rows, columns = linear_sum_assignment(-together)
    idtp = int(together[rows, columns].sum())
    return {"idtp": idtp, "idfn": int(truths.sum()) - idtp, "idfp": int(founds.sum()) - idtp}


def subsample(last: int, every: int, first: int = 1) -> list[int]:
    """Return the frames `first`, `first` + k, ... up to `last` (the official protocol)."""
    return list(range(first, last + 1, every))


def join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several parts in one."""
    if not parts:
        return make_rows([], [], [])
    columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    rows = Rows(**columns)
    return rows[np.argsort(rows.frame, kind="stable")]
