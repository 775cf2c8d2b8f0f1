"""The life of queries, sequences of frames, and what follows tracking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.core.errors import DataError, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.core.video import writing_video
from mlkit.tasks.track.checkpoint import Trained
from mlkit.tasks.track.config import PostOptions
from mlkit.tasks.track.follow import detect_boxes, follow_queries, unit_scores
from mlkit.tasks.track.formats import make_rows, read_truth
from mlkit.tasks.track.geometry import corners, distinct
from mlkit.tasks.track.model import ColTrack, Given
from mlkit.tasks.track.refine import interpolate, smooth
from mlkit.tasks.track.sequence import find_sequences, open_sequence, open_truths
from mlkit.tasks.track.tracker import QueryTracker

from .helpers import frame_memory, some_tracks, straight_tracks, tiny_model, write_mot


def eager_model() -> ColTrack:
    """Return a network whose queries all score about one half."""
    model = tiny_model(seed=2)
    torch.nn.init.zeros_(model.decoder.class_embed.bias)
    return model


@torch.no_grad()
def test_identities_are_unique_and_never_come_back() -> None:
    model = eager_model()
    tracker = QueryTracker(model, thresh=0.5, max_age_s=0.2)
    seen: list[set[int]] = []
    for frame in range(12):
        found = tracker.step(frame_memory(model, seed=frame), frame / 10)
        ids = found.identity.tolist()
        assert len(ids) == len(set(ids))
        assert (found.scores >= 0.5).all()
        seen.append(set(ids))
        assert len(tracker.tracks) == len(tracker.seen_s) == len(tracker.misses)
    assert len(set.union(*seen)) > 6
    live = set(tracker.tracks.identity.tolist())
    gone = set.union(*seen) - live
    assert gone, "some track must have ended"
    for frame in range(12, 16):
        found = tracker.step(frame_memory(model, seed=frame), frame / 10)
        assert not gone & set(found.identity.tolist())


def test_of_overlapping_finds_the_better_remains() -> None:
    from torchvision.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    for most in (0.3, 0.7, 1.0):
        boxes = torch.rand(40, 4, generator=generator) * 0.2 + 0.4
        scores = torch.rand(40, generator=generator)
        labels = torch.randint(2, (40,), generator=generator)
        kept = distinct(boxes, labels, scores, most)
        theirs = batched_nms(corners(boxes), scores, labels, most)
        assert kept.nonzero()[:, 0].tolist() == sorted(theirs.tolist())
        assert kept.all() == (most == 1)
    assert distinct(boxes[:0], labels[:0], scores[:0], 0.7).tolist() == []


@torch.no_grad()
def test_one_object_has_one_track(tmp_path: Path) -> None:
    model = eager_model()
    last = model.decoder.bbox_embed.layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 20.0)  # all queries find the same box
    published, single = QueryTracker(model, thresh=0.1), QueryTracker(model, thresh=0.1, nms=0.7)
    for frame in range(3):
        memory = frame_memory(model, seed=frame)
        assert len(published.step(memory, frame / 10).identity) > 1
        assert single.step(memory, frame / 10).identity.tolist() == [1]
    info = open_sequence(write_mot(tmp_path / "seq", straight_tracks(2)))
    runtime, trained = start(RunOptions(device="cpu")), Trained("", model)
    assert detect_boxes(trained, info, [0, 1], 0.7, runtime).frame.tolist() == [1, 2]
    assert len(detect_boxes(trained, info, [0, 1], 1.0, runtime)) > 2


@torch.no_grad()
def test_a_track_that_was_seen_comes_before_one_that_was_missed() -> None:
    model = eager_model()
    tracker = QueryTracker(model, thresh=0.1, nms=0.5)
    tracker.tracks = some_tracks(model, [0, 0])
    tracker.misses = torch.tensor([1, 0])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(4, 1)  # two new ones, two tracks
    labels = torch.zeros(4, dtype=torch.int64)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.3])
    assert tracker._hits(boxes, scores, labels).tolist() == [False, False, False, True]
    tracker.misses = torch.tensor([0, 0])
    assert tracker._hits(boxes, scores, labels).tolist() == [False, False, True, False]
    tracker.thresh = 0.75  # tracks that found too little stand in nobody's way
    assert tracker._hits(boxes, scores, labels).tolist() == [True, False, False, False]


@torch.no_grad()
def test_finds_confirm_the_tracks_that_they_overlap() -> None:
    model = eager_model()
    tracker = QueryTracker(model, thresh=0.5, nms=0.7, confirm=0.3)
    tracker.tracks = some_tracks(model, [0, 0, 0])
    tracker.misses = torch.zeros(3, dtype=torch.int64)
    here, copy = [0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2]
    beside, far = [0.38, 0.3, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]  # overlaps by 0.43 and by nothing
    other, faint = [0.3, 0.6, 0.2, 0.2], [0.6, 0.3, 0.2, 0.2]
    boxes = torch.tensor([copy, here, far, other, faint, beside, other, faint])
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0])
    scores = torch.tensor([0.8, 0.9, 0.7, 0.6, 0.4, 0.2, 0.3, 0.45])
    found = tracker._confirmed(boxes, scores, labels)
    # The better of two copies; nothing for another class, and nothing from below the threshold.
    wanted = [0, 0, 0.7, 0.6, 0, 0.9, 0.3, 0.45]
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert tracker._hits(boxes, found, labels).nonzero()[:, 0].tolist() == [2, 3, 5]
    tracker.confirm = 0.5  # now the two stand beside one another
    assert tracker._confirmed(boxes, scores, labels)[[1, 5]].tolist() == pytest.approx([0.9, 0.2])


@torch.no_grad()
def test_with_confirmation_detect_queries_find_what_they_find_alone() -> None:
    model, memory = eager_model(), frame_memory(eager_model())
    tracks = some_tracks(model, [0, 1])
    alone = model.decode(memory, model.no_tracks()).leading
    apart, beside = (model.decode(memory, tracks, apart=apart).leading for apart in (True, False))
    count = alone.logits.shape[1]
    torch.testing.assert_close(apart.logits[:, :count], alone.logits)
    torch.testing.assert_close(apart.boxes[:, :count], alone.boxes)
    assert not torch.allclose(beside.logits[:, :count], alone.logits, atol=1e-3)
    tracker = QueryTracker(model, thresh=0.5, nms=0.7, confirm=0.3)
    first = tracker.step(memory, 0.0)
    again = tracker.step(memory, 0.1)
    assert len(first.identity) > 0
    assert len(again.identity.unique()) == len(again.identity)


@torch.no_grad()
def test_the_same_frame_twice_keeps_identities_of_given_boxes() -> None:
    torch.manual_seed(0)
    model = ColTrack(tiny_model().options).eval()  # predicts what it starts from
    torch.nn.init.constant_(model.decoder.class_embed.bias, 3.0)
    memory = frame_memory(model)
    given = Given(torch.tensor([[0.2, 0.3, 0.2, 0.3], [0.7, 0.6, 0.2, 0.3]]), torch.ones(2))
    tracker = QueryTracker(model)
    first = tracker.step(memory, 0.0, given)
    second = tracker.step(memory, 0.1, given)
    assert first.identity.tolist() == [1, 2]
    by_box = dict(zip(second.given.tolist(), second.identity.tolist(), strict=True))
    assert by_box == {0: 1, 1: 2}
    assert torch.equal(second.boxes, given.boxes[second.given])
    assert tracker.tracks.held.sum() == 2
    # Another tracker, another video: it starts from nothing.
    assert QueryTracker(model).step(memory, 0.0, given).identity.tolist() == [1, 2]
    doubtful = Given(given.boxes, torch.tensor([0.9, 0.1]))
    assert QueryTracker(model).step(memory, 0.0, doubtful).identity.tolist() == [1]


@torch.no_grad()
def test_a_track_goes_on_with_what_was_seen_in_the_box_it_took() -> None:
    torch.manual_seed(0)
    model = ColTrack(tiny_model().options).eval()
    given = Given(torch.tensor([[0.2, 0.3, 0.2, 0.3], [0.7, 0.6, 0.2, 0.3]]), torch.ones(2))
    tracker = QueryTracker(model)
    tracker.step(frame_memory(model), 0.0, given)
    moved = Given(given.boxes + torch.tensor([0.02, 0.0, 0.0, 0.0]), torch.ones(2))
    before = tracker.tracks
    frame = model.decode(frame_memory(model, seed=1), before, moved, last_only=True)
    seen = tracker.step(frame_memory(model, seed=1), 0.1, moved)
    assert seen.given.tolist() == [0, 1]
    assert torch.equal(tracker.tracks.main, frame.leading.content[:2])
    assert torch.equal(tracker.tracks.boxes, moved.boxes)
    torch.testing.assert_close(tracker.tracks.moved, moved.boxes - given.boxes)
    assert torch.equal(tracker.tracks.history[:, -1], before.main)
    nothing = Given(torch.zeros(0, 4), torch.zeros(0))
    assert tracker.step(frame_memory(model), 0.2, nothing).identity.tolist() == []
    # Missed, not ended: they are looked for where their last move leads.
    torch.testing.assert_close(tracker.tracks.boxes, moved.boxes + (moved.boxes - given.boxes))
    torch.testing.assert_close(tracker.tracks.moved, moved.boxes - given.boxes)


@torch.no_grad()
def test_videos_may_begin_without_boxes() -> None:
    model = ColTrack(tiny_model().options).eval()
    tracker = QueryTracker(model)
    nothing = Given(torch.zeros(0, 4), torch.zeros(0))
    assert tracker.step(frame_memory(model), 0.0, nothing).identity.tolist() == []
    given = Given(torch.tensor([[0.2, 0.3, 0.2, 0.3]]), torch.ones(1))
    assert tracker.step(frame_memory(model), 0.1, given).identity.tolist() == [1]


@torch.no_grad()
def test_a_shorter_bank_may_be_asked_for() -> None:
    model = eager_model()
    tracker = QueryTracker(model, thresh=0.5, bank=1)
    for frame in range(3):
        tracker.step(frame_memory(model), frame / 10)
    assert tracker.tracks.history.shape[1] == 0


def test_batches_of_frames_do_not_change_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = open_sequence(write_mot(tmp_path / "seq", straight_tracks()))
    torch.manual_seed(0)
    model = ColTrack(tiny_model().options).eval()  # calm: rounding does not grow over the frames
    torch.nn.init.constant_(model.decoder.class_embed.bias, 3.0)
    runtime, trained = start(RunOptions(device="cpu")), Trained("", model)
    options = PostOptions(thresh=0.5)
    places = info.choose(1e9, 1)
    one = follow_queries(trained, info, places, options, runtime)
    monkeypatch.setattr("mlkit.tasks.track.follow.ENCODED_TOGETHER", 1)
    two = follow_queries(trained, info, places, options, runtime)
    assert np.array_equal(one.rows.identity, two.rows.identity)
    assert np.allclose(one.rows.boxes, two.rows.boxes, atol=1e-3)
    assert set(one.seconds) == {"read", "encode", "decode"}


def test_frames_are_chosen_by_time(tmp_path: Path) -> None:
    info = open_sequence(write_mot(tmp_path / "seq", straight_tracks(), fps=10))
    assert len(info) == 12
    assert info.choose(10, 1) == info.choose(1e9, 1) == list(range(12))
    assert info.choose(5, 1) == [0, 2, 4, 6, 8, 10]
    assert info.choose(1e9, 3) == [0, 3, 6, 9]
    assert info.choose(4, 1) == [0, 2, 5, 7, 10]  # 0, 0.25, 0.5, ... s: the earlier of two
    silent = Silent()
    assert info.choose(99, 1, silent) == list(range(12))
    assert "--fps 99 is more than seq has (10)" in silent.warnings[0]


def test_video_files_are_sequences(tmp_path: Path) -> None:
    folder = write_mot(tmp_path / "seq", straight_tracks(6), fps=10)
    frames = list(open_sequence(folder).read(range(6)))
    with writing_video(tmp_path / "clip.mp4", 10) as video:
        for frame in frames:
            video.add(frame)
    info = open_sequence(tmp_path / "clip.mp4")
    assert (len(info), info.size, info.numbers) == (6, (96, 64), (1, 2, 3, 4, 5, 6))
    assert info.fps == pytest.approx(10)
    some = list(info.read([1, 4]))
    assert len(some) == 2
    for place, frame in zip((1, 4), some, strict=True):
        apart = [np.abs(frame.astype(int) - other).mean() for other in frames]
        assert int(np.argmin(apart)) == place
    for place in range(6):
        [alone] = info.read([place])
        assert (
            int(np.argmin([np.abs(alone.astype(int) - other).mean() for other in frames])) == place
        )
    for path in (folder / "img1").iterdir():
        path.unlink()
    (folder / "img1").rmdir()
    (tmp_path / "clip.mp4").rename(folder / "clip.mp4")
    again = open_sequence(folder)  # frames only inside a video, truth beside it
    assert len(again) == 6
    assert len(again.truth()) == 12


def test_bad_sequences_are_named(tmp_path: Path) -> None:
    for path, said in (("none", "does not exist"), ("empty", "holds no frames")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=said):
            open_sequence(tmp_path / path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4 is not a readable video"):
        open_sequence(tmp_path / "text.mp4")
    folder = write_mot(tmp_path / "seq", straight_tracks(4))
    Image.new("RGB", (50, 64)).save(folder / "img1" / "000003.png")
    info = open_sequence(folder)
    with pytest.raises(DataError, match=r"000003\.png is 50x64, the frames before are 96x64"):
        list(info.read(range(4)))
    (folder / "img1" / "000002.png").unlink()
    silent = Silent()
    assert open_sequence(folder, silent).numbers == (1, 3, 4)
    assert "1 frame numbers are missing" in silent.warnings[0]
    (folder / "seqinfo.ini").write_text("[Sequence]\nframeRate=fast\n")
    with pytest.raises(DataError, match="frameRate"):
        open_sequence(folder)
    (folder / "seqinfo.ini").write_text("nothing here")
    with pytest.raises(DataError, match=r"no seqinfo\.ini"):
        open_sequence(folder)
    bare = open_sequence(tmp_path / "seq" / "img1")
    with pytest.raises(DataError, match="no ground truth"):
        bare.truth()
    with pytest.raises(UsageError, match="no MOTChallenge folder"):
        bare.boxes("det")


def test_grey_and_transparent_frames_are_converted(tmp_path: Path) -> None:
    Image.new("L", (40, 32), 100).save(tmp_path / "1.png")
    Image.new("RGBA", (40, 32), (9, 9, 9, 0)).save(tmp_path / "2.png")
    frames = list(open_sequence(tmp_path).read([0, 1]))
    assert [frame.shape for frame in frames] == [(32, 40, 3)] * 2


def test_folders_and_files_of_truth(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_mot(tmp_path / name, straight_tracks(3))
    assert [info.name for info in find_sequences(tmp_path)] == ["a", "b"]
    [(info, rows)] = open_truths(tmp_path / "a" / "gt" / "gt.txt")
    assert (info.name, len(info), len(rows)) == ("gt", 3, 6)
    assert np.array_equal(rows.boxes, read_truth(tmp_path / "a" / "gt" / "gt.txt").boxes)


def test_gaps_are_filled_by_lines() -> None:
    boxes = [(0, 0, 10, 10), (30, 6, 10, 16), (0, 0, 5, 5), (9, 9, 9, 9)]
    rows = make_rows([1, 4, 12, 2], [1, 1, 1, 2], boxes, [0.9, 0.7, 0.8, 0.6])
    found = interpolate(rows, 5)
    track = found[found.identity == 1]
    assert track.frame.tolist() == [1, 2, 3, 4, 12]  # the gap of 8 stays
    assert track.boxes[1].tolist() == pytest.approx([10, 2, 10, 12])
    assert track.score[1] == 0.7
    assert len(found[found.identity == 2]) == 1


def test_smoothing_follows_the_track_and_calms_it() -> None:
    random = np.random.default_rng(0)
    frames = np.arange(1, 41)
    line = np.stack((3.0 * frames, 2.0 * frames, np.full(40, 20.0), np.full(40, 40.0)), 1)
    noisy = make_rows(frames, 1, line + random.normal(0, 1, line.shape))
    calm = smooth(noisy, 10).boxes
    assert np.abs(calm - line)[:, :2].mean() < np.abs(noisy.boxes - line)[:, :2].mean()
    two = make_rows([1, 2], [1, 1], line[:2])
    assert np.array_equal(smooth(two, 10).boxes, two.boxes)


def test_scores_of_any_scale_become_ranks() -> None:
    rows = make_rows([1, 1, 2], -1, np.ones((3, 4)), [24.0, 3.0, 100.0])
    assert unit_scores(rows).score.tolist() == pytest.approx([5 / 6, 2 / 3, 1])
    usual = make_rows([1], -1, np.ones((1, 4)), 0.4)
    assert unit_scores(usual) is usual
