"""From samples to normalised log-mel frames, and SpecAugment. Needs nothing but torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HOP_S, WINDOW_S = 0.010, 0.025
FLOOR = 1e-5  # below 16-bit noise: digital silence must not rule the normalisation


def mel_filters(bins: int, size: int, rate: int) -> Tensor:
    """Return triangular filters (bins, size // 2 + 1) between 20 Hz and rate / 2, HTK's mel scale.

    Each triangle has the height 1; `size` is that of the Fourier transform.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (20.0, rate / 2))
    centres = 700 * (10 ** (torch.linspace(low, high, bins + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    rising = (frequencies - centres[:-2, None]) / (centres[1:-1] - centres[:-2])[:, None]
    falling = (centres[2:, None] - frequencies) / (centres[2:] - centres[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


class LogMel(nn.Module):
    """Log-mel energies, 25 ms every 10 ms, normalised to mean 0 and deviation 1 per utterance."""

    window: Tensor
    filters: Tensor

    def __init__(self, bins: int, rate: int) -> None:
        super().__init__()
        self.rate, self.hop = rate, round(HOP_S * rate)
        width = round(WINDOW_S * rate)
        self.size = 2 ** math.ceil(math.log2(width))
        self.register_buffer("window", torch.hann_window(width), persistent=False)
        self.register_buffer("filters", mel_filters(bins, self.size, rate), persistent=False)

    def count(self, samples: Tensor) -> Tensor:
        """Return how many frames so many samples have."""
        return samples // self.hop + 1

    def forward(self, audio: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Turn audio (B, N) in [-1, 1] of `samples` (B,) into frames (B, F, bins) and counts.

        Frames after an utterance's end are 0.
        """
        spectrum = torch.stft(
            audio, self.size, self.hop, len(self.window), self.window,
            center=True, pad_mode="constant", return_complex=True,
        )  # fmt: skip
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.einsum("mf,bft->btm", self.filters, power).add(FLOOR).log()
        counts = self.count(samples)
        return normalise(mel, counts), counts


def normalise(frames: Tensor, counts: Tensor) -> Tensor:
    """Shift and scale each utterance's live frames (B, F, D) per bin; the rest becomes 0."""
    alive = (torch.arange(frames.shape[1], device=frames.device) < counts[:, None])[..., None]
    size = counts[:, None, None].to(frames.dtype)
    mean = (frames * alive).sum(1, keepdim=True) / size
    centred = (frames - mean) * alive
    deviation = (centred.square().sum(1, keepdim=True) / size).sqrt()
    return centred / (deviation + 1e-3)


def augment(
    frames: Tensor, counts: Tensor, time_masks: int = 2, bin_masks: int = 2, strength: float = 1.0
) -> Tensor:
    """Mask random stripes of frames (B, F, D) with 0, the mean (SpecAugment, without warping).

    A stripe covers up to `strength` / 5 of the bins, or of the utterance but at most 25 frames.
    Random numbers come from torch's own stream.
    """
    batch, length, bins = frames.shape
    time = torch.arange(length, device=frames.device)
    place = torch.arange(bins, device=frames.device)
    hidden = torch.zeros(batch, length, bins, dtype=torch.bool, device=frames.device)
    for _ in range(time_masks):
        most = (0.2 * strength * counts).clamp_max(25 * strength)
        hidden |= _stripes(time, counts, most)[:, :, None]
    for _ in range(bin_masks):
        most = torch.full_like(counts, 0.2 * strength * bins, dtype=torch.float32)
        hidden |= _stripes(place, torch.full_like(counts, bins), most)[:, None, :]
    return frames.masked_fill(hidden, 0.0)


def _stripes(places: Tensor, ends: Tensor, most: Tensor) -> Tensor:
    """Return (B, len(places)): one stripe of random width below `most` before `ends`."""
    random = torch.rand(2, len(ends)).to(places.device)
    width = (random[0] * (most + 1)).floor()
    start = (random[1] * (ends - width + 1)).floor()
    return (places >= start[:, None]) & (places < (start + width)[:, None])
