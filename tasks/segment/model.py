"""The network: backbone, words, attention on three levels, gated fusion, one map of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...core.networks import still_norms
from .attention import CrossModalAttention
from .backbone import make_backbone, spatial_map
from .config import MAX_WORDS, ModelOptions
from .fusion import GatedFusion, SumFusion
from .text import PAD

SPATIAL = 8


@dataclass(frozen=True)
class Width:
    """Channels: of words, of the top level after its 1 x 1 convolution, and per level (5, 4, 3)
    of the reduced token (0: not reduced) and of the attention; then of the fusion.

    `score_bias` is where the logits begin.
    """

    word: int
    top: int
    reduced: tuple[int, int, int]
    inner: tuple[int, int, int]
    fusion: int
    score_bias: float


WIDTHS = {
    "small": Width(32, 64, (40, 40, 40), (24, 24, 24), 48, -2.0),
    "paper": Width(1000, 1000, (0, 256, 128), (512, 128, 64), 500, 0.0),
}


class Words(nn.Module):
    """Word vectors of unit length, which may know their place in the sentence.

    "position" adds a learnt vector per place, "lstm" the state of one LSTM layer; the sum has
    unit length again.
    """

    def __init__(self, count: int, channels: int, order: str) -> None:
        super().__init__()
        self.table = nn.Embedding(count, channels)
        nn.init.uniform_(self.table.weight, -0.08, 0.08)
        self.order = order
        if order == "position":
            self.position = nn.Parameter(torch.empty(MAX_WORDS, channels).uniform_(-0.08, 0.08))
        elif order == "lstm":
            self.lstm = nn.LSTM(channels, channels, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, N, C) for word numbers (B, N), padded on the right."""
        words = unit(self.table(tokens))
        if self.order == "position":
            words = unit(words + self.position[: tokens.shape[1]])
        elif self.order == "lstm":
            words = unit(words + self.lstm(words)[0])
        return words


class Segmenter(nn.Module):
    """CMSA: pictures and word numbers to logits of the object that the words refer to."""

    def __init__(self, options: ModelOptions, words: int) -> None:
        super().__init__()
        width = WIDTHS[options.width]
        self.options = options
        self.backbone = make_backbone(options.backbone)
        top, *lower = self.backbone.channels
        self.top = nn.Conv2d(top, width.top, 1)
        self.words = Words(words, width.word, options.word_order)
        self.levels = nn.ModuleList(
            CrossModalAttention(visual, width.word, SPATIAL, reduced, inner, width.fusion)
            for visual, reduced, inner in zip(
                (width.top, *lower), width.reduced, width.inner, strict=True
            )
        )
        gated = options.fusion == "gated"
        self.fusion = GatedFusion(width.fusion) if gated else SumFusion()
        self.score = nn.Conv2d(width.fusion, 1, 3, padding=1)
        for part in (self.top, self.levels, self.fusion, self.score):
            part.apply(_initialise)
        nn.init.constant_(self.score.bias, width.score_bias)  # type: ignore[arg-type]
        self.frozen = False

    def freeze_backbone(self) -> None:
        """Keep the backbone as it is, its normalisations included."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Segmenter:
        """Set the mode; pretrained normalisations keep their statistics in any mode."""
        super().train(mode)
        if self.frozen or self.options.backbone != "mini":
            still_norms(self.backbone)
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the levels (5, 4, 3) of images (I, 3, S, S) in [0, 1], each (I, C, h, w)."""
        return list(self.backbone(self.backbone.spec.normalise(images)))

    def refer(
        self, features: Sequence[Tensor], tokens: Tensor, owner: Tensor | None = None
    ) -> Tensor:
        """Return logits (B, h, w) on the grid of the cells for B sentences.

        tokens (B, N) word numbers; `owner` (B,) is each sentence's image among the I in
        `features`, by default the one at its own place.
        """
        owner = torch.arange(len(tokens), device=tokens.device) if owner is None else owner
        fifth, *lower = features
        maps = [unit(x.permute(0, 2, 3, 1)) for x in (self.top(fifth), *lower)]
        height, width = maps[0].shape[1:3]
        spatial = spatial_map(height, width, tokens.device)
        if not self.options.spatial:
            spatial = torch.zeros_like(spatial)
        words, real = self._language(tokens)
        levels = [
            level(visual, words, spatial, real, owner)
            for level, visual in zip(self.levels, maps, strict=True)
        ]
        return self.score(self.fusion(levels))[:, 0]

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (B, S, S) for images (B, 3, S, S) in [0, 1] and words (B, N)."""
        return self.enlarge(self.refer(self.features(images), tokens))

    def enlarge(self, logits: Tensor) -> Tensor:
        """Return logits (B, S, S) from those of the cells (B, h, w)."""
        return enlarge(logits, self.options.image_size, self.options.enlargement)

    def _language(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return word vectors (B, N, C) and which of them are real, as --language says."""
        real = tokens != PAD
        if self.options.language == "none":
            zeros = self.words.table.weight.new_zeros(
                len(tokens), 1, self.words.table.embedding_dim
            )
            return zeros, real[:, :1]
        words = self.words(tokens)
        if self.options.language == "mean":
            weights = real / real.sum(1, keepdim=True)
            return torch.einsum("bnc,bn->bc", words, weights)[:, None], real[:, :1]
        return words, real


def unit(x: Tensor) -> Tensor:
    """Divide by the norm over the last axis; its square is at least 1e-12."""
    return x * x.square().sum(-1, keepdim=True).clamp_min(1e-12).rsqrt()


def enlarge(logits: Tensor, size: int, grid: Literal["product", "legacy"] = "product") -> Tensor:
    """Return (B, size, size) from (B, h, w), bilinearly.

    "product" puts pixels in the middle of their squares (align_corners=False). "legacy" is
    TensorFlow 1: source = destination * h / size without a shift, the last row repeated.
    """
    if grid == "product":
        return interpolate(logits[:, None], (size, size), mode="bilinear")[:, 0]
    for axis in (1, 2):
        count = logits.shape[axis]
        place = torch.arange(size, device=logits.device) * (count / size)
        low = place.floor().long()
        high = (low + 1).clamp_max(count - 1)
        share = (place - low).view(-1, 1) if axis == 1 else place - low
        first, second = logits.index_select(axis, low), logits.index_select(axis, high)
        logits = first + share * (second - first)
    return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
