"""ADGPM: classifier rows for classes never seen, through a graph of classes.

A two-layer graph network regresses a trained classifier's last-layer rows from vectors of class
names or definitions, first gathering from descendants, then from ancestors, with an attention by
distance; it then emits a row for every node of the graph. A photo is classified by its features
times the rows of any classes. GPM, DGPM, GCNZ and an MLP share the command; ConSE, ridge
regression and the mean below the closest ancestor stand beside every evaluation, and the default
score is a mixture of the network, that mean and ConSE on definitions.

Source: Kampffmeyer, Chen, Liang, Wang, Zhang, Xing, "Rethinking Knowledge Graph Propagation for
Zero-Shot Learning", CVPR 2019, arXiv 1805.11724.
"""

from ...core.lazy import exports

_NAMES = {
    "ZeroshotConfig": "config",
    "TrainConfig": "config",
    "FinetuneConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "RowsConfig": "config",
    "ZeroshotTraining": "config",
    "FinetuneTraining": "config",
    "classify": "apply",
    "train": "fit",
    "finetune": "finetuning",
    "evaluate": "score",
    "check_graph": "check",
    "predict": "rows",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
