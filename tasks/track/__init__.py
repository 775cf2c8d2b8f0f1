"""ColTrack: tracks are queries that stay with their objects, also at low frame rates.

A deformable encoder turns a frame into a memory; detect queries look in it for new objects,
and each live track sends its last contents as main and historical queries. They do not see one
another in self-attention (temporal blocking), but refine one another between the layers. One
decoder gives boxes and identities; no association step is written by hand. Clips whose frames
are 1 to 10 apart teach it to bridge large gaps. Kalman, overlap and colour baselines stand
beside it, and HOTA, CLEAR and Identity metrics.

Source: Liu, Wu, Fu, "Collaborative Tracking Learning for Frame-Rate-Insensitive Multi-Object
Tracking", ICCV 2023; its detector is DINO (Zhang et al., ICLR 2023).
"""

from ...core.lazy import exports

_NAMES = {
    "TrackConfig": "config",
    "TrainConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "SynthConfig": "config",
    "TrackTrainOptions": "config",
    "track": "apply",
    "train": "fit",
    "evaluate": "score",
    "check_sequences": "check",
    "synthesise": "synth",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
