from __future__ import annotations

import numpy as np
import pytest

from mlkit.tasks.track.baselines import Assigner, Moment, histograms
from mlkit.tasks.track.boxes import covered, from_relative, iou_matrix, paired_iou, to_relative
from mlkit.tasks.track.config import Baseline
from mlkit.tasks.track.motion import Kalman

from .helpers import paint, straight_tracks

METHODS: list[Baseline] = ["iou", "cv", "sort", "byte", "histogram"]


def follow(
    method: Baseline, every: int = 1, speed: float = 2.0, frames: int = 12
) -> list[list[int]]:
    rows = straight_tracks(frames, speed)
    tracker, found = Assigner(method), []
    for frame in range(1, frames + 1, every):
        here = rows.at(frame)
        image = paint(rows, frame, 96, 64)
        moment = Moment(frame, frame / 10, here.boxes, here.score, image)
        found.append(tracker.step(moment).tolist())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_everyone_follows_slow_objects(method: Baseline) -> None:
    assert follow(method) == [[1, 2]] * 12


def test_prediction_bridges_what_overlap_cannot() -> None:
    """At 12 pixels a frame the boxes of 14 pixels hardly overlap any more."""
    lost = follow("iou", speed=12, frames=7)
    assert len({i for pair in lost for i in pair}) > 4
    for method in METHODS[1:3]:
        # Fast from the start nothing is known of the speed: give it two slow frames first.
        rows, tracker = straight_tracks(3, 2.0), Assigner(method)
        for frame in (1, 2, 3):
            here = rows.at(frame)
            ids = tracker.step(Moment(frame, frame / 10, here.boxes, here.score))
        later = here.boxes + np.array([[4 * 2.0, 0, 0, 0], [-4 * 2.0, 0, 0, 0]])
        assert tracker.step(Moment(7, 0.7, later, here.score)).tolist() == ids.tolist()


def test_colour_finds_what_jumped() -> None:
    assert follow("histogram", every=5, speed=5.0) == [[1, 2]] * 3


def test_tracks_end_after_their_age_and_identities_never_come_back() -> None:
    box, score = np.array([[10.0, 10, 20, 20]]), np.ones(1)
    for age, wanted in ((0.4, 2), (1.0, 1)):
        tracker = Assigner("iou", max_age_s=age)
        assert tracker.step(Moment(1, 0.0, box, score)).tolist() == [1]
        for frame in range(2, 8):
            tracker.step(Moment(frame, frame / 10, box[:0], score[:0]))
        assert tracker.step(Moment(8, 0.8, box, score)).tolist() == [wanted]


def test_one_missed_frame_never_ends_a_track() -> None:
    box, score = np.array([[10.0, 10, 20, 20]]), np.ones(1)
    tracker = Assigner("iou", max_age_s=0.1)
    tracker.step(Moment(1, 0, box, score))
    tracker.step(Moment(2, 5, box[:0], score[:0]))
    assert tracker.step(Moment(3, 10, box, score)).tolist() == [1]


def test_byte_keeps_tracks_on_doubtful_boxes_but_starts_none() -> None:
    box = np.array([[10.0, 10, 20, 20], [60, 10, 20, 20]])
    for method, kept in (("byte", 1), ("sort", 0)):
        tracker = Assigner(method)  # type: ignore[arg-type]
        tracker.step(Moment(1, 0.0, box[:1], np.array([0.9])))
        assert tracker.step(Moment(2, 0.1, box, np.array([0.3, 0.3]))).tolist() == [kept, 0]


def test_kalman_is_the_textbook_filter() -> None:
    """Against explicit matrices, one object at a time."""
    random = np.random.default_rng(0)
    filters = Kalman()
    boxes = random.uniform(10, 50, (3, 4))
    filters.append(boxes)
    means, covariances = filters.mean.copy(), filters.covariance.copy()
    seen = boxes + random.normal(0, 1, boxes.shape)
    filters.predict(0.1)
    filters.update(np.array([0, 2]), seen[[0, 2]])
    step, look = np.eye(8), np.eye(4, 8)
    step[:4, 4:] = 0.1 * np.eye(4)
    for i in range(3):
        tall = means[i, 3]
        noise = np.diag((np.repeat((1 / 20, 1 / 6), 4) * tall) ** 2 * 3)
        mean, covariance = step @ means[i], step @ covariances[i] @ step.T + noise
        if i != 1:
            z = np.concatenate((seen[i, :2] + seen[i, 2:] / 2, seen[i, 2:]))
            s = look @ covariance @ look.T + (mean[3] / 20) ** 2 * np.eye(4)
            gain = covariance @ look.T @ np.linalg.inv(s)
            mean, covariance = (
                mean + gain @ (z - look @ mean),
                (np.eye(8) - gain @ look) @ covariance,
            )
        assert np.allclose(filters.mean[i], mean)
        assert np.allclose(filters.covariance[i], covariance)


def test_box_geometry() -> None:
    a = np.array([[0.0, 0, 10, 10], [5, 5, 10, 10], [0, 0, 0, 0]])
    found = iou_matrix(a, a)
    assert found[0].tolist() == pytest.approx([1, 25 / 175, 0])
    assert found[2].tolist() == [0, 0, 0]
    assert paired_iou(a[:2], a[1::-1]).tolist() == pytest.approx([25 / 175] * 2)
    assert covered(a, a)[0].tolist() == pytest.approx([1, 0.25, 0])
    assert np.allclose(from_relative(to_relative(a, 64, 48), 64, 48), a)


def test_histograms_sum_to_one_and_tell_colours_apart() -> None:
    rows = straight_tracks()
    found = histograms(paint(rows, 1, 96, 64), np.vstack((rows.at(1).boxes, [(200, 200, 5, 5)])))
    assert np.allclose(found.sum(1), 1)
    assert np.minimum(found[0], found[1]).sum() < 0.1
