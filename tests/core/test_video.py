from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mlkit.core.errors import DataError
from mlkit.core.video import _upright, find_videos, is_video, open_video, writing_video

FPS = 10.0


def colours(count: int = 24, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames of one grey each, 10 levels apart: which frame it is can be read from its mean."""
    levels = np.arange(count, dtype=np.uint8) * 10
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def number(pixels: np.ndarray) -> int:
    return round(float(pixels.mean()) / 10)


@pytest.fixture(params=["mp4", "avi", "pictures", "npy", "npz"])
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    frames = colours()
    path = tmp_path / f"v.{request.param}"
    if request.param == "mp4":
        with writing_video(path, FPS) as writer:
            for frame in frames:
                writer.add(frame)
    elif request.param == "avi":
        encode(path, frames, "mpeg4", {"bf": "2"})
    elif request.param == "pictures":
        path.mkdir()
        for i, frame in enumerate(frames):  # 9 comes before 10, though not in the alphabet
            Image.fromarray(frame).save(path / f"f{i}.png")
    elif request.param == "npy":
        np.save(path, frames)
    else:
        np.savez(path, frames=frames, other=np.zeros(3))
    return path


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=int(FPS), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 10_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_every_kind_gives_the_same_frames_and_times(video: Path) -> None:
    opened = open_video(video, FPS)
    assert (opened.width, opened.height, opened.fps) == (48, 32, FPS)
    assert opened.count in (24, None)
    for _ in range(2):  # a video can be read again
        frames = list(opened)
        assert [number(frame.pixels) for frame in frames] == list(range(24))
        np.testing.assert_allclose([f.time_s for f in frames], np.arange(24) / FPS, atol=1e-6)
        assert all(f.pixels.dtype == np.uint8 and f.pixels.shape == (32, 48, 3) for f in frames)


@pytest.mark.parametrize("start", [0.05, 0.5, 1.0, 1.25, 2.3])
def test_reading_may_start_anywhere(video: Path, start: float) -> None:
    numbers = [number(frame.pixels) for frame in open_video(video, FPS).frames(start)]
    assert numbers == list(range(int(start * FPS + 1e-6), 24))


def test_frames_shown_at_given_times(video: Path) -> None:
    opened = open_video(video, FPS)
    shown = opened.at([0.31, 0.39, 1.0, 1.55, 2.3, 7.0])
    assert [number(frame.pixels) for frame in shown] == [3, 3, 10, 15, 23, 23]
    assert opened.at([]) == []
    with pytest.raises(ValueError, match="ascend"):
        opened.at([1.0, 0.5])


def test_variable_rate_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.bit_rate = 10_000_000
        for pts, pixels in zip((0, 1, 5, 6), colours(4), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    opened = open_video(path)
    np.testing.assert_allclose([f.time_s for f in opened], [0, 0.1, 0.5, 0.6], atol=2e-3)
    assert [number(f.pixels) for f in opened.at([0.3, 0.55])] == [1, 2]


def test_videos_are_found_below_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", colours(2))
    (tmp_path / "deep" / "frames").mkdir(parents=True)
    Image.fromarray(colours(1)[0]).save(tmp_path / "deep" / "frames" / "000001.jpg")
    (tmp_path / "notes.txt").write_text("no video")
    assert find_videos(tmp_path) == [tmp_path / "b.npy", tmp_path / "deep" / "frames"]
    assert not is_video(tmp_path / "deep")


def test_an_odd_size_grows_by_one(tmp_path: Path) -> None:
    with writing_video(tmp_path / "odd.mp4", 12.5) as writer:
        for frame in colours(3, 31, 47):
            writer.add(frame)
    opened = open_video(tmp_path / "odd.mp4")
    assert (opened.width, opened.height, opened.fps) == (48, 32, 12.5)


def test_an_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing_video(tmp_path / "v.mp4", FPS) as writer:
            writer.add(colours(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without frames"), writing_video(tmp_path / "v.mp4", FPS):
        pass
    with pytest.raises(DataError, match=r"\.gif"), writing_video(tmp_path / "v.gif", FPS):
        pass
    with writing_video(tmp_path / "v.mp4", FPS) as writer:
        writer.add(colours(1)[0])
        with pytest.raises(ValueError, match="in a video of"):
            writer.add(colours(1, 16, 16)[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.mp4", b"not a video at all", "not a readable video"),
        ("a.avi", b"", "not a readable video"),
        ("a.npy", b"\x93NUMPY broken", "not a readable array"),
        ("a.npz", b"PK broken", "not a readable array"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        open_video(tmp_path / name)
    assert name in caught.value.message


def test_a_cut_container_ends_or_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with writing_video(tmp_path / "v.mp4", FPS) as writer:
        for _ in range(20):
            writer.add(random.integers(0, 255, (32, 48, 3), dtype=np.uint8))
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"v\.mp4 is not a readable video"):
        list(open_video(tmp_path / "v.mp4"))


def test_what_is_no_video(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.zeros((4, 8, 8), np.uint8))
    np.save(tmp_path / "float.npy", np.zeros((4, 8, 8, 3), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    for i, side in enumerate((8, 9)):
        Image.new("RGB", (side, 8)).save(tmp_path / "pictures" / f"{i}.png")
    for name, said in {
        "grey.npy": r"shape \(4, 8, 8\)",
        "float.npy": "float32",
        "two.npz": "a, b",
        "objects.npy": "not a readable array",
        "empty": "no pictures",
        "nowhere": "does not exist",
    }.items():
        with pytest.raises(DataError, match=said):
            open_video(tmp_path / name)
    with pytest.raises(DataError, match=r"1\.png has 9x8 pixels"):
        list(open_video(tmp_path / "pictures"))
    with pytest.raises(DataError, match="holds no videos"):
        find_videos(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(DataError, match="frames per second"):
        open_video(tmp_path / "pictures", 1e6)


def test_a_frame_filmed_on_its_side_is_turned() -> None:
    class Filmed:
        rotation = -90

        def to_ndarray(self, format: str) -> np.ndarray:
            return np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)

    turned = _upright(Filmed())
    assert turned.shape == (4, 2, 3)  # clockwise: the left column becomes the top row
    np.testing.assert_array_equal(turned[0, :, 0], [12, 0])
