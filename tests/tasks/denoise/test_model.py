from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mlkit.core.metrics import psnr
from mlkit.tasks.denoise.checkpoint import embedded_prior
from mlkit.tasks.denoise.convolution import analyse, synthesise
from mlkit.tasks.denoise.losses import DenoisingObjective
from mlkit.tasks.denoise.model import ConvexRidge, Ridge, StepRule

from .helpers import noise, picture, random_model, random_ridge


def pairs(count: int = 8, size: tuple[int, int] = (17, 22)) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.randn(1, 1, *size, generator=generator, dtype=torch.float64)

    return [(draw(10 ** (-i / 2)), draw(10 ** (-i / 2))) for i in range(count)]


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 40)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_transpose_is_exact(
    size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    ridge = random_ridge(dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, *size, generator=generator).to(dtype)
    v = torch.randn(2, ridge.channels, *size, generator=generator).to(dtype)
    maps, image = analyse(x, ridge.kernel), synthesise(v, ridge.kernel)
    error = abs(float((maps * v).sum() - (x * image).sum()))
    assert error <= tolerance * float(maps.norm() * v.norm())


def test_convolutions_equal_the_composed_ones_in_the_interior() -> None:
    model = random_model().double()
    x = picture()
    expected = x
    for weight in model.filters:
        zero_mean = weight - weight.mean((1, 2, 3), keepdim=True)
        expected = F.conv2d(expected, zero_mean, padding=2)
    found = analyse(x, model.ridge().kernel)
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


def test_filters_have_no_mean_unless_told_otherwise() -> None:
    kernel = random_model().ridge().kernel.detach()
    torch.testing.assert_close(kernel.sum((1, 2, 3)), torch.zeros(6), atol=1e-6, rtol=0)
    constant = analyse(torch.full((1, 1, 20, 20), 0.7), kernel)[..., 5:-5, 5:-5]
    torch.testing.assert_close(constant, torch.zeros_like(constant), atol=1e-6, rtol=0)
    other = ConvexRidge((3, 6), 5, zero_mean=False).ridge().kernel.detach()
    assert float(other.sum((1, 2, 3)).abs().max()) > 1e-3


def test_gradients_of_the_convolutions() -> None:
    x = picture(7, 8)[:, :, :, :].clone().requires_grad_()
    kernel = random_ridge().kernel[:2].clone().requires_grad_()
    v = torch.randn(1, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(analyse, (x, kernel))
    assert torch.autograd.gradcheck(synthesise, (v, kernel))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_network_is_the_gradient_of_the_energy(dtype: torch.dtype, tolerance: float) -> None:
    ridge = random_ridge(dtype=dtype)
    x = picture().to(dtype).requires_grad_()
    ridge.energy(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        expected = ridge.gradient(x)
    assert float((x.grad - expected).norm()) <= tolerance * float(expected.norm())


def test_convex_along_random_segments_and_monotone_gradient() -> None:
    for seed in range(3):
        ridge = random_ridge(seed)
        with torch.no_grad():
            for x, z in pairs():
                for part in (0.25, 0.5, 0.9):
                    mixed = ridge.energy(part * x + (1 - part) * z)
                    chord = part * ridge.energy(x) + (1 - part) * ridge.energy(z)
                    assert float(mixed - chord) <= 1e-12
                rise = ((ridge.gradient(x) - ridge.gradient(z)) * (x - z)).sum()
                assert float(rise) >= -1e-12


def test_lipschitz_bound_holds_and_is_tight() -> None:
    ridge = random_ridge()
    bound = ridge.lipschitz()
    with torch.no_grad():
        for x, z in pairs():
            change = (ridge.gradient(x) - ridge.gradient(z)).norm()
            assert float(change) <= bound * float((x - z).norm())
    weights = ridge.activation.slopes()[:, None, None]
    u = torch.rand(1, 1, 120, 120, dtype=torch.float64)
    for _ in range(200):
        u = synthesise(analyse(u / u.norm(), ridge.kernel) * weights, ridge.kernel)
    assert 0.93 * bound <= float(u.norm()) <= bound


def test_strength_and_scale() -> None:
    ridge, x = random_ridge(), picture()
    scaled = ridge.scaled(3.0, 1.6)
    with torch.no_grad():
        torch.testing.assert_close(scaled.gradient(x), 3 * ridge.gradient(1.6 * x))
        torch.testing.assert_close(scaled.energy(x), 3 / 1.6 * ridge.energy(1.6 * x))
    assert scaled.lipschitz() == pytest.approx(3 * 1.6 * ridge.lipschitz())


@torch.no_grad()
def test_tiles_change_nothing() -> None:
    ridge = random_ridge()
    x = picture(70, 95, batch=2)
    for tile in (16, 33, 64):
        tiled = replace(ridge, tile=tile)
        torch.testing.assert_close(tiled.gradient(x), ridge.gradient(x), atol=1e-13, rtol=0)
        torch.testing.assert_close(tiled.energy(x), ridge.energy(x))


def test_no_grad_and_grad_paths_agree() -> None:
    ridge, x = random_ridge(), picture()
    with torch.no_grad():
        fast = ridge.gradient(x)
    torch.testing.assert_close(ridge.gradient(x), fast)


@torch.no_grad()
def test_pruning_removes_idle_channels_only() -> None:
    model = random_model()
    assert model.coefficients is not None
    model.coefficients[2] = 0
    ridge = model.ridge()
    pruned = ridge.pruned()
    assert pruned.channels == ridge.channels - 1
    x = picture().float()
    torch.testing.assert_close(pruned.gradient(x), ridge.gradient(x))


@torch.no_grad()
def test_the_embedded_prior_pruned_equals_the_full_one() -> None:
    from mlkit.tasks.denoise.problem import Denoising

    clean = picture(40, 40)
    noisy = (clean + noise(clean, 25)).float()
    ridge = embedded_prior(25).model.ridge()
    scores = []
    for candidate in (ridge, ridge.pruned()):
        problem = Denoising.of(noisy, candidate.scaled(10.0, 5.0))
        scores.append(psnr(problem.crop(problem.solve(tolerance=1e-5).x), clean))
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


# --- the t-step denoiser ---


def expansion(model: ConvexRidge, steps: int, rule: StepRule) -> float:
    """The largest ratio ||D(a) - D(b)|| / ||a - b|| found by random pairs and by ascent."""
    ridge = model.ridge()
    base = picture(16, 16)
    worst = 0.0
    for seed in range(3):
        shift = noise(base, 20, seed).requires_grad_()
        for _ in range(15):
            moved = model.denoise(base + shift, steps, rule, ridge) - model.denoise(
                base, steps, rule, ridge
            )
            ratio = moved.norm() / shift.norm()
            worst = max(worst, float(ratio.detach()))
            (slope,) = torch.autograd.grad(ratio, shift)
            with torch.no_grad():
                shift += 0.3 * shift.norm() * slope / slope.norm().clamp(min=1e-30)
    return worst


@pytest.mark.parametrize(
    ("steps", "rule"), [(1, "averaged"), (1, "descent"), (2, "averaged"), (7, "averaged")]
)
def test_averaged_denoisers_never_expand(steps: int, rule: StepRule) -> None:
    for seed in range(2):
        model = random_model(seed).double()
        with torch.no_grad():
            model.lipschitz.fill_(model.ridge().lipschitz())
        assert expansion(model, steps, rule) <= 1 + 1e-12


def test_the_first_step_and_the_others_follow_the_equations() -> None:
    model = random_model().double()
    model.lipschitz.fill_(2.0)
    strength, scale = 5.0, 1.0
    y = picture()
    ridge: Ridge = model.ridge()
    with torch.no_grad():
        x = y - 2 / (2.0 * scale) * ridge.gradient(scale * y)
        torch.testing.assert_close(model.denoise(y, 1), x)
        length = (2 - 1e-8) / (1 + strength * scale * 2.0)
        x = x - length * ((x - y) + strength * ridge.gradient(scale * x))
        torch.testing.assert_close(model.denoise(y, 2), x)


def test_a_fresh_network_is_the_identity_and_learns_from_its_first_step() -> None:
    model = ConvexRidge((3, 6), 5)
    clean = picture(40, 40, batch=4).float()
    noisy = clean + noise(clean, 25).float()
    torch.testing.assert_close(model.denoise(noisy, 3), noisy)
    objective = DenoisingObjective(model, 1, 25.0, 2e-3, "descent")
    objective((noisy, clean))["loss"].backward()
    assert model.coefficients is not None
    assert model.coefficients.grad is not None
    before = model.ridge().activation.slopes()
    with torch.no_grad():
        model.coefficients -= 1e-5 * model.coefficients.grad.sign()
    assert float((model.ridge().activation.slopes() - before).detach().abs().max()) > 0


def test_the_loss_is_the_published_one() -> None:
    model = random_model()
    clean = picture(20, 20, batch=3).float()
    noisy = clean + noise(clean, 25).float()
    losses = DenoisingObjective(model, 2, 25.0, 2e-3, "descent")((noisy, clean))
    error = (model.denoise(noisy, 2) - clean).abs().sum() / 3 * (1600 / 400)
    values = model.ridge().activation.values  # type: ignore[attr-defined]
    tv2 = values.diff(n=2, dim=1).abs().sum() / 0.01
    torch.testing.assert_close(losses["loss"], error + 2e-3 * 25 * tv2)


def test_the_tracked_lipschitz_constant_approaches_the_bound() -> None:
    model = random_model().train()
    ridge = model.ridge()
    for _ in range(60):
        tracked = model.track_lipschitz(ridge)
    assert tracked.requires_grad
    assert 0.8 * ridge.lipschitz() <= float(model.lipschitz) <= ridge.lipschitz()


def test_a_strength_below_its_limit_can_come_back() -> None:
    model = random_model()
    clean = picture().float()
    noisy = clean + noise(clean, 25).float()
    with torch.no_grad():
        model.strength.fill_(-0.3)
    at_limit = model.denoise(noisy, 3)
    (at_limit - clean).square().sum().backward()
    assert model.strength.grad is not None
    assert float(model.strength.grad) != 0
    with torch.no_grad():
        model.strength.fill_(1e-4)
    torch.testing.assert_close(at_limit, model.denoise(noisy, 3))


@torch.no_grad()
def test_tracking_survives_flat_splines() -> None:
    """At the start all slopes are 0; the constant must be found once they are not."""
    model = ConvexRidge((3, 6), 5).train()
    assert float(model.track_lipschitz(model.ridge())) == pytest.approx(0.1)
    model.coefficients.copy_(random_model().coefficients)  # type: ignore[union-attr, arg-type]
    for _ in range(60):
        model.track_lipschitz(model.ridge())
    bound = model.ridge().lipschitz()
    assert 0.8 * bound <= float(model.lipschitz) <= bound


@torch.no_grad()
def test_normalising_keeps_the_problem() -> None:
    model = random_model().double()
    x, before, strength = picture(), model.ridge(), model.strength.clone()
    model.normalise()
    after = model.ridge()
    assert after.lipschitz() == pytest.approx(1)
    torch.testing.assert_close(
        model.strength * after.gradient(x), strength * before.gradient(x), rtol=1e-6, atol=1e-9
    )
