"""APL: alternative pseudo-labelling for CTC speech recognition.

A CTC model is trained on a little transcribed audio and much audio without transcripts. A teacher
(the moving average of the student) labels the latter; tokens in which it has little confidence
are flagged, and the generalized CTC loss accepts any token there instead of teaching the error.
Four parts: the loss, error detection by confidence, a contrastive loss that makes confidence
more telling, and a threshold found on labelled audio.

Source: Zhu, Gao, Cheng, Povey, Zhang, Yan, "Alternative Pseudo-Labeling for Semi-Supervised
Automatic Speech Recognition", IEEE/ACM TASLP 2023, arXiv 2308.06547.
"""

from ...core.lazy import exports

_NAMES = {
    "CheckConfig": "config",
    "EvalConfig": "config",
    "JoinConfig": "config",
    "PseudoConfig": "config",
    "TrainConfig": "config",
    "TranscribeConfig": "config",
    "TranscribeTrainOptions": "config",
    "check_speech": "check",
    "demo": "handover",
    "evaluate": "score",
    "export": "handover",
    "load": "checkpoint",
    "pseudo_labels": "pseudo",
    "spoken_strings": "synth",
    "train": "fit",
    "transcribe": "apply",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
