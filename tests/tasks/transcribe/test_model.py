from __future__ import annotations

import pytest
import torch
from scipy.signal import stft

from mlkit.tasks.transcribe.config import ModelOptions
from mlkit.tasks.transcribe.features import LogMel, augment, mel_filters
from mlkit.tasks.transcribe.model import build, pad_audio

from .helpers import NETWORK, TOKENS, utterances

SMALL = {
    "tiny": NETWORK,
    "conformer": ModelOptions(
        model="conformer", rate=8000, mel_bins=12, width=16, layers=1, heads=2
    ),
    "wav2vec2": ModelOptions(model="wav2vec2", width=32, layers=1, heads=2),
}


def test_mel_filters_are_triangles_on_the_mel_scale() -> None:
    filters = mel_filters(24, 256, 8000)
    assert filters.shape == (24, 129)
    assert (filters >= 0).all()
    assert (filters.sum(1) > 0).all()
    peaks = filters.argmax(1)
    assert (peaks.diff() >= 0).all()
    # Between the first and the last centre neighbouring triangles add up to one.
    inner = filters[:, int(peaks[0]) + 1 : int(peaks[-1])].sum(0)
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_log_mel_is_that_of_scipy() -> None:
    audio = 0.3 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    mel = LogMel(12, 8000)
    found, counts = mel(audio[None], torch.tensor([4000]))
    assert counts.tolist() == [51]
    window = torch.nn.functional.pad(mel.window, (28, 28))
    frame = {"window": window.numpy(), "nperseg": 256, "noverlap": 176}
    _, _, z = stft(audio.numpy(), **frame, boundary="zeros", padded=False)
    power = torch.from_numpy(abs(z)).double().square() * float(window.sum()) ** 2
    log = (mel.filters.double() @ power + 1e-5).log()
    expected = (log - log.mean(1, keepdim=True)) / (log.std(1, correction=0, keepdim=True) + 1e-3)
    torch.testing.assert_close(found[0].T.double(), expected, rtol=0, atol=1e-3)


def test_augmentation_masks_stripes_and_nothing_else() -> None:
    torch.manual_seed(0)
    frames = torch.ones(8, 100, 24)
    masked = augment(frames, torch.full((8,), 100))
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    hidden = masked == 0
    whole = hidden.all(2) | hidden.all(1, keepdim=True).expand(-1, 100, -1).all(2)
    rest = hidden & ~whole[..., None]
    columns = hidden.float().mean(1) == 1
    assert torch.equal(rest, rest & columns[:, None])
    assert 0 < float(hidden.float().mean()) < 0.6


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_shapes_lengths_and_padding(kind: str) -> None:
    torch.manual_seed(0)
    model = build(SMALL[kind], len(TOKENS)).eval()
    generator = torch.Generator().manual_seed(1)
    parts = [0.1 * torch.randn(n, generator=generator) for n in (model.rate, model.rate * 3 // 4)]
    audio, samples = pad_audio(parts)
    with torch.no_grad():
        log_probs, counts = model(audio, samples)
        alone, count = model(parts[1][None], samples[1:])
    assert counts.tolist() == model.frames(samples).tolist()
    assert log_probs.shape == (int(counts.max()), 2, len(TOKENS))
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(log_probs.shape[:2]))
    if kind == "tiny":  # the others normalise over, or look at, what is padded
        torch.testing.assert_close(alone[:, 0], log_probs[: int(count), 1], rtol=0, atol=1e-4)
    model.train()
    losses, _ = model(audio, samples, 1.0)
    losses.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_size_of_the_default() -> None:
    count = sum(p.numel() for p in build(ModelOptions(), 29).parameters())
    assert 100_000 < count < 200_000
    assert len(utterances(3, 0)) == 3
