from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.core.errors import DataError, UsageError
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.core.progress import Silent
from mlkit.tasks.denoise.reconstruction.config import MriConfig
from mlkit.tasks.denoise.reconstruction.mri import read_mri
from mlkit.tasks.denoise.reconstruction.simulate import coil_maps, random_columns

from .helpers import phantom

SHAPE = (32, 48)
MASK = random_columns(48, 2, 0.3, 0)
TRUTH = torch.nn.functional.pad(phantom(32), (8, 8))


def kspace(count: int, phase: bool = False, centred: bool = True) -> np.ndarray[Any, Any]:
    maps = coil_maps(count, SHAPE) if count > 1 else torch.ones(1, *SHAPE, dtype=torch.complex64)
    if phase:
        maps = maps * torch.polar(torch.ones(SHAPE), torch.linspace(0, 2, 48).expand(SHAPE))
    mask = MASK if centred else torch.fft.ifftshift(MASK)
    return MaskedFourier(mask, SHAPE, maps, centred)(TRUTH)[0].numpy()


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def write(array: Any, name: str = "kspace.npy") -> Path:
        np.save(tmp_path / name, np.asarray(array))
        return tmp_path / name

    return write


class Listener(Silent):
    """Remembers remarks too."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def info(self, message: str) -> None:
        self.notes.append(message)


def read(path: Path, **options: Any) -> tuple[list[Any], list[str]]:
    """Return the scans, and what was said."""
    listener = Listener()
    scans = read_mri(MriConfig.create(kspace=path, **options), listener)
    return scans, listener.notes + [f"warning: {text}" for text in listener.warnings]


def test_one_coil_needs_no_mask_and_no_maps(save: Any) -> None:
    scans, notes = read(save(kspace(1)[0]))
    assert len(scans) == 1
    assert scans[0].operator.data_shape == (1, *SHAPE)
    np.testing.assert_allclose(scans[0].operator(TRUTH)[0], kspace(1), atol=1e-5)
    assert scans[0].numbers == 2 * 32 * int(MASK.sum())
    assert len(notes) == 1
    assert "count as measured" in notes[0]


@pytest.mark.parametrize("mask", [MASK, MASK.expand(SHAPE), MASK[None]])
def test_masks_of_columns_or_samples(save: Any, mask: torch.Tensor) -> None:
    scans, notes = read(save(kspace(1)), mask=save(mask.numpy() > 0, "mask.npy"))
    assert torch.equal(scans[0].operator.get_buffer("mask"), MASK.expand(SHAPE))
    assert notes == []


def test_maps_from_a_file(save: Any) -> None:
    scans, _ = read(save(kspace(3)), coils=str(save(coil_maps(3, SHAPE).numpy(), "maps.npy")))
    np.testing.assert_allclose(scans[0].operator(TRUTH)[0], kspace(3), atol=1e-5)


def test_several_coils_are_estimated(save: Any) -> None:
    scans, notes = read(save(kspace(3)))
    assert "estimated from the central" in notes[1]
    error = (scans[0].operator(TRUTH) - scans[0].data).norm() / scans[0].data.norm()
    assert float(error) < 0.2


def test_phase_is_noticed_and_can_be_modelled(save: Any) -> None:
    path = save(kspace(1, phase=True))
    _, notes = read(path)
    assert any(note.startswith("warning: ") and "--coils estimate" in note for note in notes)
    scans, notes = read(path, coils="estimate")
    error = (scans[0].operator(TRUTH) - scans[0].data).norm() / scans[0].data.norm()
    assert float(error) < 0.25
    assert not any(note.startswith("warning") for note in notes)


@pytest.mark.parametrize("count", [1, 3])
def test_frequency_zero_may_lie_in_the_corner(save: Any, count: int) -> None:
    data = kspace(count, centred=False)
    scans, _ = read(save(data), centred=False)
    assert not scans[0].operator.centred
    error = (scans[0].operator(TRUTH) - scans[0].data).norm() / scans[0].data.norm()
    assert float(error) < (1e-5 if count == 1 else 0.2)


def test_volumes_and_bart(save: Any, tmp_path: Path) -> None:
    volume = np.stack([kspace(2), 2 * kspace(2)])
    scans, _ = read(save(volume))
    assert len(scans) == 2
    torch.testing.assert_close(scans[1].data, 2 * scans[0].data)
    one, _ = read(save(volume), slice_=1)
    assert torch.equal(one[0].data, scans[1].data)
    np.moveaxis(kspace(2), 0, -1)[:, :, None].ravel(order="F").astype("<c8").tofile(
        tmp_path / "k.cfl"
    )
    (tmp_path / "k.hdr").write_text("# Dimensions\n32 48 1 2 1 1\n")
    bart, _ = read(tmp_path / "k.cfl")
    torch.testing.assert_close(bart[0].data, scans[0].data)


def test_fastmri_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "knee.h5", "w") as file:
        file["kspace"] = np.concatenate([kspace(1), 3 * kspace(1)])  # slices of one coil
        file["reconstruction_esc"] = np.zeros((2, 32, 32))
    scans, _ = read(tmp_path / "knee.h5")
    assert len(scans) == 2
    one, _ = read(tmp_path / "knee.h5", slice_=1)
    assert torch.equal(one[0].data, scans[1].data)


def test_unusable_scans_are_named(save: Any) -> None:
    path = save(kspace(2))
    with pytest.raises(DataError, match="k-space is complex"):
        read(save(np.abs(kspace(2)), "real.npy"))
    with pytest.raises(DataError, match="zero everywhere"):
        read(save(0 * kspace(2), "zero.npy"))
    with pytest.raises(DataError, match=r"mask\.npy has shape \(32,\)"):
        read(path, mask=save(np.ones(32), "mask.npy"))
    with pytest.raises(DataError, match="nothing was measured"):
        read(path, mask=save(np.zeros(48), "mask.npy"))
    with pytest.raises(DataError, match="has 3 coils, k-space has 2"):
        read(path, coils=str(save(coil_maps(3, SHAPE).numpy(), "maps.npy")))
    with pytest.raises(DataError, match="has shape"):
        read(path, coils=str(save(coil_maps(2, (8, 8)).numpy(), "maps.npy")))
    with pytest.raises(DataError, match="no coil sees anything"):
        read(path, coils=str(save(np.zeros((2, *SHAPE)), "maps.npy")))
    with pytest.raises(UsageError, match="--coils none, but"):
        read(path, coils="none")
    with pytest.raises(DataError, match="k-space is"):
        read(save(kspace(2)[None, None, None], "deep.npy"))
    broken = kspace(2)
    broken[1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"1 values that are NaN or infinite"):
        read(save(broken, "nan.npy"))
    sparse = kspace(2)
    sparse[..., 20:30] = 0
    with pytest.raises(DataError, match="too few to estimate"):
        read(save(sparse, "gap.npy"))
