from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlkit.core.batch import STREAM, Job, plan_files, plan_images, run_jobs
from mlkit.core.errors import DataError, UsageError
from mlkit.core.media import write_image
from mlkit.core.options import BatchOptions
from mlkit.core.progress import Silent

PLAIN = BatchOptions()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png"):
        write_image(tmp_path / "photos" / name, torch.zeros(1, 4, 4))
    return tmp_path / "photos"


def test_one_file_goes_to_one_file(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.png"
    assert plan_images([photos / "a.png"], out, PLAIN) == [Job(photos / "a.png", out, True)]
    assert plan_images([photos / "a.png"], tmp_path, PLAIN)[0].target == tmp_path / "a.png"
    assert plan_images([STREAM], STREAM, PLAIN) == [Job(STREAM, STREAM, True)]


def test_folders_keep_their_shape(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = plan_images([photos], out, PLAIN)
    assert [job.target for job in jobs] == [out / "a.png", out / "b.png", out / "sub" / "c.png"]
    several = plan_images([photos / "a.png", photos / "sub"], out, PLAIN)
    assert [job.target for job in several] == [out / "a.png", out / "c.png"]


def test_clashes_are_refused(photos: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "a.png", torch.zeros(1, 4, 4))
    with pytest.raises(UsageError, match="would both become"):
        plan_images([photos, tmp_path / "other"], tmp_path / "out", PLAIN)
    with pytest.raises(UsageError, match="replaced by its result"):
        plan_images([photos], photos, BatchOptions(overwrite=True))
    with pytest.raises(UsageError, match="one file"):
        plan_images([photos, STREAM], tmp_path / "out", PLAIN)
    with pytest.raises(DataError, match="does not exist"):
        plan_images([tmp_path / "none"], tmp_path / "out", PLAIN)
    with pytest.raises(UsageError, match="is a file"):
        plan_images([photos], photos / "a.png", PLAIN)


def test_existing_outputs(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_image(out / "b.png", torch.zeros(1, 4, 4))
    with pytest.raises(DataError, match=r"b\.png exists already"):
        plan_images([photos], out, PLAIN)
    assert len(plan_images([photos], out, BatchOptions(overwrite=True))) == 3
    rest = plan_images([photos], out, BatchOptions(skip_existing=True))
    assert [job.source.name for job in rest] == ["a.png", "c.png"]


def test_failures_are_skipped_counted_and_told(photos: Path, tmp_path: Path) -> None:
    jobs = plan_images([photos], tmp_path / "out", PLAIN)
    done = []

    def work(job: Job) -> None:
        if job.source.name == "b.png":
            raise DataError(f"{job.source} is broken")
        done.append(job.source.name)

    progress = Silent()
    failures = run_jobs(jobs, work, PLAIN, progress, "images")
    assert failures == {str(photos / "b.png"): f"{photos / 'b.png'} is broken"}
    assert done == ["a.png", "c.png"]
    assert progress.warnings == [f"skipped: {photos / 'b.png'} is broken"]
    with pytest.raises(DataError, match="broken"):
        run_jobs(jobs, work, BatchOptions(strict=True), progress, "images")
    with pytest.raises(DataError, match="broken"):
        run_jobs(
            plan_images([photos / "b.png"], tmp_path / "x.png", PLAIN),
            work,
            PLAIN,
            progress,
            "images",
        )


def test_other_files_get_another_ending(tmp_path: Path) -> None:
    def find(folder: Path) -> list[Path]:
        return sorted(folder.rglob("*.wav"))

    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.wav", "sub/b.wav"):
        (tmp_path / "in" / name).touch()
    out = tmp_path / "out"
    jobs = plan_files([tmp_path / "in"], out, BatchOptions(), find, ".srt")
    assert [job.target for job in jobs] == [out / "a.srt", out / "sub" / "b.srt"]
    out.mkdir()
    (one,) = plan_files([tmp_path / "in" / "a.wav"], out, BatchOptions(), find, ".srt")
    assert (one.target, one.alone) == (out / "a.srt", True)
