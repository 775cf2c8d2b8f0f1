from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlkit.core.errors import DataError
from mlkit.core.progress import Silent
from mlkit.core.runtime import stream
from mlkit.core.video import open_video, writing_video
from mlkit.tasks.pretrain.config import AugmentOptions, ClipOptions, ReadOptions
from mlkit.tasks.pretrain.data import RandomClips, even_clips
from mlkit.tasks.pretrain.footage import Gathered, check_lengths, even, gather, scaled_size
from mlkit.tasks.pretrain.listing import open_set

from .helpers import write_videos

CLIP = ClipOptions(frames=2, stride=3, size=16)


def read(path: Path, folder: Path, short: int = 24, **options: object) -> Gathered:
    return gather(open_set(path), ReadOptions(**options), short, folder, Silent())  # type: ignore[arg-type]


def numbered(path: Path, count: int = 20, fps: float = 10.0) -> Path:
    """Write an MP4 whose frame i has the level 12 i."""
    with writing_video(path, fps) as writer:
        for i in range(count):
            writer.add(np.full((32, 40, 3), 12 * i, np.uint8))
    return path


def levels(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 12) for frame in frames]


def test_frames_are_decoded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_videos(tmp_path / "v")
    first = read(table, tmp_path / "cache")
    item = first.footage[3]
    frames = np.load(tmp_path / "v" / "3.npy")
    assert (item.length, item.height, item.width, item.fps) == (12, 24, 32, 25)
    box = item.read(np.array([0, 5, 11]), (2, 3, 10, 12))
    np.testing.assert_array_equal(box, frames[[0, 5, 11], 2:12, 3:15])
    monkeypatch.setattr("mlkit.tasks.pretrain.footage.open_video", None)  # must not be needed
    assert read(table, tmp_path / "cache").footage[3].digest == item.digest
    assert len({f.digest for f in first.footage}) == 8
    assert len(open_set(tmp_path)) == 8  # what is kept is not taken for more videos


def test_a_changed_video_is_decoded_anew(tmp_path: Path) -> None:
    table = write_videos(tmp_path / "v")
    before = read(table, tmp_path / "cache").footage[0].digest
    np.save(tmp_path / "v" / "0.npy", np.zeros((13, 24, 32, 3), np.uint8))
    after = read(table, tmp_path / "cache").footage[0]
    assert after.length == 13
    assert after.digest != before


def test_decoding_on_demand_gives_the_same_frames(tmp_path: Path) -> None:
    numbered(tmp_path / "v.mp4")
    cached = read(tmp_path, tmp_path / "cache").footage[0]
    live = read(tmp_path, tmp_path / "none", no_cache=True).footage[0]
    assert not (tmp_path / "none").exists()
    assert (live.length, live.fps) == (cached.length, cached.fps) == (20, 10)
    assert (live.height, live.width) == (cached.height, cached.width) == (24, 30)
    places, box = np.array([1, 4, 9, 19]), (0, 0, 24, 30)
    np.testing.assert_array_equal(live.read(places, box), cached.read(places, box))


@pytest.mark.parametrize(("fps", "wanted"), [(5.0, 10), (10.0, 20), (20.0, 40)])
def test_an_even_rate(tmp_path: Path, fps: float, wanted: int) -> None:
    video = open_video(numbered(tmp_path / "v.mp4"))
    frames = list(even(video, fps))
    assert len(frames) == wanted
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(wanted) / fps)
    shown = [int(k / fps * 10 + 1e-6) for k in range(wanted)]
    assert levels(np.stack([f.pixels for f in frames])) == shown


def test_sizes_are_never_raised() -> None:
    assert scaled_size(480, 640, 48) == (48, 64)
    assert scaled_size(30, 20, 48) == (30, 20)


def test_a_broken_video_is_skipped_and_counted(tmp_path: Path) -> None:
    table = write_videos(tmp_path / "v", count=12)
    (tmp_path / "v" / "5.npy").write_bytes(b"broken")
    sink = Silent()
    found = gather(open_set(table), ReadOptions(), 24, tmp_path / "c", sink)
    assert len(found.footage) == len(found.videos) == 11
    assert list(found.broken) == ["5.npy"]
    assert found.videos.columns["place"][5] == "2"  # that of video 6
    assert "1 of 12 videos cannot be read and were skipped" in sink.warnings[0]
    (tmp_path / "v" / "6.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"2 of 12 videos cannot be read: .*5\.npy.*6\.npy"):
        read(table, tmp_path / "c")


def test_short_videos(tmp_path: Path) -> None:
    table = write_videos(tmp_path / "v")
    np.save(tmp_path / "v" / "1.npy", np.zeros((6, 24, 32, 3), np.uint8))
    footage, sink = read(table, tmp_path / "c").footage, Silent()
    assert check_lengths(footage, CLIP, sink) == 1 / 8
    assert "1 of 8 videos are no longer than a clip" in sink.warnings[0]
    with pytest.raises(DataError, match="all 8 videos are no longer than a clip") as caught:
        check_lengths(footage, ClipOptions(frames=4, stride=4), Silent())
    assert "--stride 1" in caught.value.hint


def test_batches_are_clips_of_the_same_video(tmp_path: Path) -> None:
    import torch

    table = write_videos(tmp_path / "v")
    np.save(tmp_path / "v" / "1.npy", np.load(tmp_path / "v" / "6.npy"))  # a twin
    footage = read(table, tmp_path / "c").footage
    options = AugmentOptions(colour=0, grey=0, blur=0, flip=False, rate_jitter=0.3)
    source = RandomClips(footage, CLIP, options, 3)
    batch = source.fetch(torch.tensor([2, 6, 1]), stream(0, 1))
    assert batch.clips.shape == (3, 3, 3, 2, 16, 16)
    assert batch.ids.tolist() == [2, 1, 1]
    colours = batch.clips.mean((3, 4, 5))  # (clip, video, channel): that of the video
    assert float((colours[0] - colours[1]).abs().max()) < 0.15
    assert float((colours[0, 0] - colours[0, 1]).abs().max()) > 0.15
    again = source.fetch(torch.tensor([2, 6, 1]), stream(0, 1))
    assert torch.equal(batch.clips, again.clips)
    assert not torch.equal(batch.clips, source.fetch(torch.tensor([2, 6, 1]), stream(0, 2)).clips)
    both = RandomClips(footage, CLIP, AugmentOptions(), 1).fetch(torch.tensor([0, 1]), stream(0, 1))
    assert both.clips.shape[0] == 2  # two views of the same frames


def test_views_of_a_whole_video(tmp_path: Path) -> None:
    wide = np.zeros((12, 16, 48, 3), np.uint8)
    wide[:, :, 16:32, 0], wide[:, :, 32:, 0] = 100, 200
    np.save(tmp_path / "v.npy", wide)
    item = read(tmp_path, tmp_path / "c", 16).footage[0]
    crops = even_clips(item, CLIP, 2, 3)
    assert crops.shape == (6, 3, 2, 16, 16)
    levels = (crops[:3, 0].mean((1, 2, 3)) * 0.225 + 0.45) * 255
    assert levels.tolist() == pytest.approx([0, 100, 200], abs=1e-3)
    pressed = even_clips(item, CLIP.model_copy(update={"squash": True}), 2, 3)
    assert pressed.shape == (2, 3, 2, 16, 16)
