"""Super-resolution that adapts to the one image it is given (MZSR).

The image is reduced once more with the blur that made it; undoing that is a training pair that
needs no other data. The network starts from weights that were meta-trained over many blurs, so
that one to ten gradient steps on this pair suffice where training from scratch takes thousands.

Source: Soh, Cho, Cho, "Meta-Transfer Learning for Zero-Shot Super-Resolution", CVPR 2020,
arXiv 2002.12213.
"""

from ...core.lazy import exports

_NAMES = {
    "CheckConfig": "config",
    "EvalConfig": "config",
    "TrainConfig": "config",
    "UpscaleConfig": "config",
    "UpscaleTraining": "config",
    "check": "data",
    "demo": "handover",
    "evaluate": "score",
    "export": "handover",
    "load": "handover",
    "train": "fit",
    "upscale": "apply",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
