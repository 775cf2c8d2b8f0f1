"""The encoder that is learnt, its heads, and the classifier that fine-tuning makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .backbones import build_backbone
from .config import BackboneOptions, HeadOptions


class Head(nn.Sequential):
    """A multi-layer perceptron (B, inputs) -> (B, outputs): linear, norm if any, ReLU; linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int, norm: bool) -> None:
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts.append(nn.Linear(inputs, hidden, bias=not norm))
            parts += [nn.BatchNorm1d(hidden), nn.ReLU()] if norm else [nn.ReLU()]
            inputs = hidden
        parts.append(nn.Linear(inputs, outputs))
        super().__init__(*parts)
        for part in parts:
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)


class Encoder(nn.Module):
    """Backbone f and projector g: clips (B, 3, T, S, S) to embeddings (B, d)."""

    def __init__(self, backbone: BackboneOptions, heads: HeadOptions) -> None:
        super().__init__()
        self.backbone, self.features = build_backbone(backbone.backbone, backbone.width)
        self.projector = Head(
            self.features,
            heads.hidden,
            heads.dim,
            heads.projector_layers,
            bool(heads.head_norm),
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Return embeddings (B, d), not yet normalised."""
        return self.projector(self.backbone(clips))


class Classifier(nn.Module):
    """Backbone, dropout and a linear layer: clips (B, 3, T, S, S) to logits (B, K).

    While `frozen`, the backbone stays in eval mode and gets no gradient (a linear probe);
    `adapt_norms` lets its batch norms follow the labelled clips even so.
    """

    def __init__(
        self,
        options: BackboneOptions,
        classes: int,
        dropout: float = 0.0,
        frozen: bool = False,
        adapt_norms: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, features = build_backbone(options.backbone, options.width)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.frozen, self.adapt_norms = frozen, adapt_norms
        if frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a frozen backbone does not follow unless its norms may adapt."""
        super().train(mode)
        if self.frozen and not self.adapt_norms:
            self.backbone.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, K)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(clips)
        return self.head(self.dropout(features))
