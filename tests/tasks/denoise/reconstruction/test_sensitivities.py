from __future__ import annotations

import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.core.operators.fourier import MaskedFourier
from mlkit.tasks.denoise.reconstruction.sensitivities import (
    central_columns,
    estimate_coils,
    phase_share,
)
from mlkit.tasks.denoise.reconstruction.simulate import coil_maps, random_columns

from .helpers import phantom

SHAPE = (64, 64)


def test_the_central_columns_are_counted() -> None:
    mask = torch.zeros(8, 12)
    mask[:, 4:9] = 1  # the middle is column 6
    mask[:, 11] = 1
    assert central_columns(mask) == 5
    mask[3, 7] = 0
    assert central_columns(mask) == 1
    mask[0, 6] = 0
    assert central_columns(mask) == 0
    assert central_columns(torch.ones(8, 12)) == 11


def test_estimated_maps_explain_the_data_as_well_as_the_true_ones() -> None:
    truth, maps = phantom(64), coil_maps(4, SHAPE)
    mask = random_columns(64, 2, 0.4, 0).expand(SHAPE)
    data = MaskedFourier(mask, SHAPE, maps)(truth)
    found = estimate_coils(data[0], mask)
    inside = truth[0, 0] > 0.1
    norm = found.abs().square().sum(0).sqrt()[inside]
    torch.testing.assert_close(norm, torch.ones_like(norm), atol=1e-3, rtol=0)
    # The true maps have sum |S|^2 = 1 and the image is positive, so phases must agree too.
    agreement = (found * maps.conj()).sum(0).real[inside]
    assert float(agreement.mean()) > 0.98


def test_phase_of_one_coil_is_found_and_modelled() -> None:
    truth = phantom(64)
    ramp = torch.linspace(0, 3, 64)[:, None].expand(SHAPE)
    turned = torch.polar(torch.ones(SHAPE), ramp)[None]
    mask = random_columns(64, 2, 0.4, 0).expand(SHAPE)
    plain, data = (MaskedFourier(mask, SHAPE, c)(truth)[0] for c in (None, turned))
    assert phase_share(plain, mask) < 1e-6
    assert phase_share(data, mask) > 0.1
    inside = truth[0, 0] > 0.1
    agreement = (estimate_coils(data, mask)[0] * turned[0].conj()).real[inside]
    assert float(agreement.mean()) > 0.97


def test_too_small_a_centre_is_refused() -> None:
    mask = torch.zeros(SHAPE)
    mask[:, 32] = 1
    assert phase_share(torch.zeros(1, *SHAPE, dtype=torch.complex64), mask) == 0
    with pytest.raises(DataError, match="only 1 columns"):
        estimate_coils(torch.zeros(1, *SHAPE, dtype=torch.complex64), mask)
