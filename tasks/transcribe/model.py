"""Acoustic models: from samples to log probabilities of tokens, token 0 being the blank."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelOptions
from .features import LogMel, augment


class Acoustic(nn.Module):
    """A CTC model. `rate` is the sampling rate it hears, `stride_s` the time of a frame."""

    rate: int
    stride_s: float

    def encode(self, audio: Tensor, samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and frame counts (B,); `strength` > 0 augments the input."""
        raise NotImplementedError

    def forward(
        self, audio: Tensor, samples: Tensor, strength: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Turn audio (B, N) in [-1, 1] into log probabilities (T, B, V) and counts (B,)."""
        logits, counts = self.encode(audio, samples, strength)
        return logits.float().log_softmax(2).transpose(0, 1), counts

    def frames(self, samples: Tensor) -> Tensor:
        """Return how many output frames so many samples give."""
        raise NotImplementedError


def halve(counts: Tensor) -> Tensor:
    """Return the length behind a convolution of stride 2."""
    return (counts + 1) // 2


class Subsampling(nn.Module):
    """Two convolutions of width 5 and stride 2 over time, with batch norm: a quarter of the rate.

    Frames behind an utterance's end are zeroed before each, so that padding changes nothing in
    evaluation.
    """

    def __init__(self, bins: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv1d(bins, widths[0], 5, 2, padding=2)
        self.second = nn.Conv1d(widths[0], widths[1], 5, 2, padding=2)
        self.first_norm, self.second_norm = (nn.BatchNorm1d(width) for width in widths)

    def forward(self, frames: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Turn frames (B, F, D) into (B, ceil(ceil(F / 2) / 2), widths[1])."""
        x = frames.transpose(1, 2)
        for layer, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            counts = halve(counts)
            x = norm(layer(x)).relu()
            alive = torch.arange(x.shape[2], device=x.device) < counts[:, None]
            x = x * alive[:, None]
        return x.transpose(1, 2), counts


class _MelModel(Acoustic):
    """A model on log-mel frames at 100 Hz that puts out 25 Hz."""

    def __init__(self, options: ModelOptions, widths: tuple[int, int]) -> None:
        super().__init__()
        self.rate, self.stride_s = options.rate, 0.04
        self.mel = LogMel(options.mel_bins, options.rate)
        self.subsampling = Subsampling(options.mel_bins, widths)

    def frames(self, samples: Tensor) -> Tensor:
        """Return how many output frames so many samples give."""
        return halve(halve(self.mel.count(samples)))

    def subsample(self, audio: Tensor, samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return frames (B, T, D) at 25 Hz, of augmented log-mel energies when `strength` > 0."""
        frames, counts = self.mel(audio, samples)
        if strength:
            frames = augment(frames, counts, strength=strength)
        return self.subsampling(frames, counts)


class Tiny(_MelModel):
    """Two convolutions and a bidirectional GRU: 0.1 M parameters, for a CPU."""

    def __init__(self, options: ModelOptions, vocabulary: int) -> None:
        super().__init__(options, (64, 80))
        self.gru = nn.GRU(80, options.width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(2 * options.width, vocabulary)

    def encode(self, audio: Tensor, samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and frame counts (B,)."""
        x, counts = self.subsample(audio, samples, strength)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(x), counts.cpu(), batch_first=True, enforce_sorted=False
        )
        x, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.head(self.dropout(x)), counts


class Conformer(_MelModel):
    """torchaudio's Conformer behind the same subsampling."""

    def __init__(self, options: ModelOptions, vocabulary: int) -> None:
        from torchaudio.models import Conformer as Blocks

        super().__init__(options, (options.width, options.width))
        self.blocks = Blocks(
            options.width, options.heads, 4 * options.width, options.layers, 31, options.dropout
        )
        self.head = nn.Linear(options.width, vocabulary)

    def encode(self, audio: Tensor, samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and frame counts (B,)."""
        x, counts = self.subsample(audio, samples, strength)
        x, counts = self.blocks(x[:, : int(counts.max())], counts)
        return self.head(x), counts


class Wav2vec2(Acoustic):
    """torchaudio's wav2vec 2.0 (base) on samples at 16 kHz; output at 50 Hz.

    Starts from noise unless a checkpoint is loaded into it (`--init-weights`). `strength` masks
    stripes of samples, its own masking being part of pre-training only.
    """

    def __init__(self, options: ModelOptions, vocabulary: int) -> None:
        from torchaudio.models import wav2vec2_model

        super().__init__()
        self.rate, self.stride_s = 16_000, 0.02
        width, layers, heads = options.width, options.layers, options.heads
        self.network: Any = wav2vec2_model(
            "group_norm", None, False, width, 0.1, 128, 16, layers, heads, 0.1, 4 * width, 0.1,
            options.dropout, False, 0.05, vocabulary,
        )  # fmt: skip

    def frames(self, samples: Tensor) -> Tensor:
        """Return how many output frames so many samples give."""
        for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
            samples = (samples - kernel).div(stride, rounding_mode="floor") + 1
        return samples.clamp_min(0)

    def encode(self, audio: Tensor, samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and frame counts (B,)."""
        if strength:
            audio = augment(audio[..., None], samples, bin_masks=0, strength=400 * strength)[..., 0]
        return self.network(audio, samples)


def build(options: ModelOptions, vocabulary: int) -> Acoustic:
    """Return an untrained model for `vocabulary` tokens, the blank included."""
    kinds: dict[str, type[Any]] = {"tiny": Tiny, "conformer": Conformer, "wav2vec2": Wav2vec2}
    return kinds[options.model](options, vocabulary)


def pad_audio(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return a batch (B, N) of samples padded with 0, and their numbers (B,)."""
    samples = torch.tensor([len(part) for part in parts])
    width = int(samples.max())
    return torch.stack([F.pad(part, (0, width - len(part))) for part in parts]), samples
