"""Data-free backbone fine-tuning for pruned networks (DFBF).

Channels are removed from the backbone of a trained vision model for real: tensors get smaller,
and with them multiply-adds, latency and the file. The damage is repaired without any data:
images are synthesised from the statistics in the model's own BatchNorm layers, and the pruned
backbone learns to reproduce the feature maps of the unpruned one on them. The head is never
touched, so one procedure serves classification, detection, segmentation and key points.

Source: Holzbock, Hegde, Dietmayer, Belagiannis, "Data-Free Backbone Fine-Tuning for Pruned
Neural Networks", EUSIPCO 2023, arXiv 2306.12881.
"""

from ...core.lazy import exports

_NAMES = {
    "PruneConfig": "config",
    "CheckConfig": "config",
    "EvalConfig": "config",
    "SynthesizeConfig": "config",
    "TrainConfig": "config",
    "prune": "apply",
    "check": "data",
    "evaluate": "score",
    "train": "fit",
    "synthesize": "images",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
