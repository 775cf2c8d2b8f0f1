"""CNFGNN: forecasts for a network of sensors whose series stay where they were recorded.

Every node runs a small GRU encoder-decoder on its own series. A server that knows only the graph
runs a graph network on the nodes' encodings and sends each an embedding, from which its decoder
starts. Training alternates: the nodes train and their weights are averaged; then, the nodes
frozen, the graph network is trained by split learning. Unseen nodes use the averaged weights.

Source: Meng, Rambhatla, Liu, "Cross-Node Federated Graph Neural Network for Spatio-Temporal Data
Modeling", KDD 2021, arXiv 2106.05223.
"""

from ...core.lazy import exports

_NAMES = {
    "ForecastConfig": "config",
    "TrainConfig": "config",
    "EvalConfig": "config",
    "CheckConfig": "config",
    "SynthConfig": "config",
    "ServeConfig": "config",
    "JoinConfig": "config",
    "RoundOptions": "config",
    "FederationOptions": "config",
    "forecast": "apply",
    "train": "fit",
    "evaluate": "score",
    "check_network": "check",
    "synthesise": "synth",
    "serve": "federation",
    "join_federation": "federation",
    "demo": "handover",
    "export": "handover",
    "load": "checkpoint",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
