from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mlkit.tasks.track.formats import Rows, make_rows
from mlkit.tasks.track.metrics import ALPHAS, Scores, join, score_sequence, subsample

from .helpers import straight_tracks


def corrupted(truth: Rows, seed: int) -> Rows:
    """Drop, shift, add and re-label boxes at random."""
    random = np.random.default_rng(seed)
    kept = truth[random.random(len(truth)) > 0.15]
    boxes = kept.boxes + random.normal(0, 2.5, kept.boxes.shape) * (1, 1, 0.5, 0.5)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
    identity = np.where(random.random(len(kept)) < 0.1, 90 + kept.frame % 3, kept.identity)
    extra = random.integers(1, int(truth.frame.max()) + 1, 6)
    clutter = make_rows(extra, 500 + np.arange(6), random.uniform(5, 60, (6, 4)))
    found = join([make_rows(kept.frame, identity, boxes), clutter])
    _, first = np.unique(np.stack((found.frame, found.identity)), axis=1, return_index=True)
    return found[np.sort(first)]


def crowd(seed: int, frames: int = 14, objects: int = 5) -> Rows:
    random = np.random.default_rng(seed)
    start, speed = random.uniform(0, 60, (objects, 2)), random.normal(0, 3, (objects, 2))
    parts = []
    for frame in range(1, frames + 1):
        there = np.flatnonzero(random.random(objects) > 0.1)
        corners = (start + speed * frame)[there]
        boxes = np.concatenate((corners, np.full((len(there), 2), (15, 25))), axis=1)
        category = np.where(there == 4, 8, 1)  # the last object is a distractor
        parts.append(
            make_rows(np.full(len(there), frame), there + 1, boxes, 1.0, category, 1.0, there != 4)
        )
    return join(parts)


def test_perfect_results_are_perfect() -> None:
    truth = straight_tracks()
    scores = score_sequence(truth, truth, range(1, 13)).summary()
    for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1"):
        assert scores[name] == pytest.approx(100)
    assert scores["IDSW"] == scores["Frag"] == scores["FP"] == scores["FN"] == 0


def test_identities_that_swap_halfway() -> None:
    truth = straight_tracks()
    late = truth.frame > 6
    swapped = make_rows(
        truth.frame, np.where(late, 3 - truth.identity, truth.identity), truth.boxes
    )
    scores = score_sequence(truth, swapped, range(1, 13)).summary()
    assert scores["IDF1"] == pytest.approx(50)
    assert scores["AssA"] == pytest.approx(100 / 3)
    assert scores["HOTA"] == pytest.approx(100 / 3**0.5)
    assert scores["IDSW"] == 2


def test_nothing_found_and_nothing_there() -> None:
    truth, nobody = straight_tracks(), make_rows([], [], [])
    missed = score_sequence(truth, nobody, range(1, 13)).summary()
    assert (missed["HOTA"], missed["IDF1"], missed["FN"]) == (0, 0, 24)
    extra = score_sequence(nobody, truth, range(1, 13)).summary()
    assert (extra["FP"], extra["MOTA"]) == (24, -2400)


def test_only_the_processed_frames_count() -> None:
    truth = straight_tracks()
    frames = subsample(12, 3)
    assert frames == [1, 4, 7, 10]
    kept = truth[np.isin(truth.frame, frames)]
    assert score_sequence(truth, kept, frames).summary()["MOTA"] == pytest.approx(100)
    assert score_sequence(truth, kept, range(1, 13)).summary()["Recall"] == pytest.approx(100 / 3)


def test_scores_of_sequences_add_up_to_those_of_one_long_sequence() -> None:
    one, two = crowd(1), crowd(2)
    a, b = corrupted(one, 1), corrupted(two, 2)
    both = score_sequence(one, a, range(1, 15)) + score_sequence(two, b, range(1, 15))

    def moved(rows: Rows) -> Rows:
        return Rows(**{**vars(rows), "frame": rows.frame + 20, "identity": rows.identity + 1000})

    long = score_sequence(join([one, moved(two)]), join([a, moved(b)]), range(1, 35))
    for name, value in long.summary().items():
        assert both.summary()[name] == pytest.approx(value), name


def test_idf1_is_the_best_of_all_pairings() -> None:
    truth, found = crowd(3, 8, 3), corrupted(crowd(3, 8, 3), 3)
    scores = score_sequence(truth, found, range(1, 9))
    real = truth.counted()
    from mlkit.tasks.track.boxes import iou_matrix

    mine, yours = np.unique(real.identity), np.unique(found.identity)
    together = np.zeros((len(mine), len(yours)))
    for frame in range(1, 9):
        a, b = real.at(frame), found.at(frame)
        for i, j in zip(*np.nonzero(iou_matrix(a.boxes, b.boxes) >= 0.5), strict=True):
            together[mine == a.identity[i], yours == b.identity[j]] += 1
    best = max(
        sum(together[i, j] for i, j in zip(range(len(mine)), order, strict=True))
        for order in itertools.permutations(range(len(yours)), len(mine))
    )
    assert scores.idtp == best


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_trackeval(seed: int) -> None:
    """TrackEval's own metric classes on the same overlaps; needs the extra `bench`."""
    pytest.importorskip("trackeval", reason="needs the extra 'bench'")
    from mlkit.tasks.track.metrics import _align

    truth = crowd(seed)
    found = corrupted(truth, seed + 10)
    frames = range(1, 15)
    ours = score_sequence(truth, found, frames)
    data = _align(truth, found, frames)
    theirs = trackeval_scores(data)
    for name in ("HOTA", "DetA", "AssA", "AssRe", "AssPr", "LocA"):
        assert ours.summary()[name] == pytest.approx(100 * theirs["HOTA"][name].mean(), abs=1e-6)
    clear, identity = theirs["CLEAR"], theirs["Identity"]
    summary = ours.summary()
    for mine, yours in (("MOTA", "MOTA"), ("MOTP", "MOTP")):
        assert summary[mine] == pytest.approx(100 * clear[yours], abs=1e-6)
    for mine, yours in (("IDSW", "IDSW"), ("Frag", "Frag"), ("FP", "CLR_FP"), ("FN", "CLR_FN")):
        assert summary[mine] == clear[yours], mine
    for name in ("IDF1", "IDR", "IDP"):
        assert summary[name] == pytest.approx(100 * identity[name], abs=1e-6)


def trackeval_scores(data: Any) -> dict[str, Any]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trackeval.metrics import CLEAR, HOTA, Identity
    their = {
        "num_timesteps": len(data.truth),
        "num_gt_ids": data.truths,
        "num_tracker_ids": data.founds,
        "num_gt_dets": sum(map(len, data.truth)),
        "num_tracker_dets": sum(map(len, data.found)),
        "gt_ids": data.truth,
        "tracker_ids": data.found,
        "similarity_scores": data.overlaps,
    }
    quiet = {"PRINT_CONFIG": False}
    return {
        "HOTA": HOTA().eval_sequence(their),
        "CLEAR": CLEAR(quiet).eval_sequence(their),
        "Identity": Identity(quiet).eval_sequence(their),
    }


def test_a_result_on_a_distractor_is_no_false_alarm() -> None:
    real = make_rows([1], [1], [(0, 0, 10, 20)])
    poster = make_rows([1], [2], [(50, 0, 10, 20)], 1.0, 8, 1.0, False)
    ignored = make_rows([1], [3], [(80, 0, 10, 20)], 1.0, 1, 1.0, False)
    truth = join([real, poster, ignored])
    found = make_rows([1, 1, 1], [1, 2, 3], truth.boxes)
    scores = score_sequence(truth, found, [1])
    assert (scores.tp, scores.fp) == (1, 1)  # MOT15's ignored rows protect nothing
    assert len(ALPHAS) == 19
    assert Scores().summary()["HOTA"] == 0
