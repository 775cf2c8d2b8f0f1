"""ComiRec: several interests per user, retrieved apart and merged with a diversity dial.

The ordered items of a user become K interest vectors, by self-attention (ComiRec-SA) or by
dynamic routing (ComiRec-DR). Each interest fetches its nearest items by inner product, exactly;
a greedy choice merges the lists and trades scores for different categories (lambda). Only item
ids and their order are learnt from; a user never seen in training is just another sequence.
MIND, YouTube's DNN, GRU4Rec and MostPopular stand beside it under the same protocol.

Source: Cen, Zhang, Zou, Zhou, Yang, Tang, "Controllable Multi-Interest Framework for
Recommendation", KDD 2020, arXiv 2005.09347.
"""

from ...core.lazy import exports

_NAMES = {
    "RecommendConfig": "config",
    "TrainConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "SynthConfig": "config",
    "RecommendTrainOptions": "config",
    "recommend": "apply",
    "train": "fit",
    "evaluate": "score",
    "check_log": "check",
    "synthesise": "synth",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
