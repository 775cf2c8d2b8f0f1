"""CMSA: the object that a sentence refers to, as a mask.

Every word meets every cell of the picture: for word n and cell p the vector [visual(p); word(n);
position(p)] is one token of a self-attention over all words and cells at once, on three levels of
a convolutional network. Gates let each level take from the two others; their sum becomes one map
of logits. The concatenated tensor is never built: linear maps on it split into three small ones.

Source: Ye, Rochan, Liu, Wang, "Cross-Modal Self-Attention Network for Referring Image
Segmentation", CVPR 2019, arXiv 1904.04745.
"""

from ...core.lazy import exports

_NAMES = {
    "SegmentConfig": "config",
    "TrainConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "SynthConfig": "config",
    "DeriveConfig": "config",
    "ConvertConfig": "config",
    "SegmentTraining": "config",
    "find": "apply",
    "train": "fit",
    "evaluate": "score",
    "check": "survey",
    "synthesise": "synth",
    "derive_references": "derive",
    "convert": "survey",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
