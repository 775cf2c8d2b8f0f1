"""Video representations without labels: clips of one video agree, wherever in time they lie.

rho clips at random times of a video are changed each in its own way and encoded; their embeddings
are pulled together by one of four frameworks: two with negatives (MoCo, SimCLR), two without
(BYOL, SwAV), two with a momentum encoder (MoCo, BYOL). What lasts through a video is learnt, what
passes is not. `pretrain` learns, `evaluate` scores, `train` fine-tunes, `export_features` writes
features.

Source: Feichtenhofer, Fan, Xiong, Girshick, He, "A Large-Scale Study on Unsupervised
Spatiotemporal Representation Learning", CVPR 2021, arXiv 2104.14558.
"""

from ...core.lazy import exports

_NAMES = {
    "PretrainConfig": "config",
    "PretrainTraining": "config",
    "TrainConfig": "config",
    "FinetuneTraining": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "FeaturesConfig": "config",
    "SpritesConfig": "config",
    "TrackletsConfig": "config",
    "pretrain": "apply",
    "train": "fit",
    "evaluate": "score",
    "check": "survey",
    "export_features": "features",
    "make_sprites": "sprites",
    "cut_tracklets": "tracklets",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
