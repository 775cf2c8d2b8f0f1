"""TABASCO: which labels of a long-tailed data set are wrong, and a classifier in spite of them.

Noise from a large class floods the small ones, so that the usual rule "small loss, clean label"
throws the tail away. Per observed class two metrics are each split by a mixture of two
Gaussians: the weighted Jensen-Shannon divergence of the prediction from the label (WJSD) and the
similarity to an adaptive centroid of features (ACD). The better one decides. `find_noise` reports
wrong labels, with a guard against false alarms; `train` feeds the split to two networks that
teach each other (MixMatch, after DivideMix).

Source: Lu, Zhang, Han, Cheung, Wang, "Label-Noise Learning with Intrinsically Long-Tailed Data",
ICCV 2023, arXiv 2208.09833.
"""

from ...core.lazy import exports

_NAMES = {
    "LabelnoiseConfig": "config",
    "TrainConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "NoisyConfig": "config",
    "LabelnoiseTraining": "config",
    "find_noise": "apply",
    "train": "fit",
    "evaluate": "score",
    "check": "survey",
    "make_noisy": "survey",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
