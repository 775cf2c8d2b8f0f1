"""What a federated method costs, by formula: bytes on the wire, floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from .coordinator import SERVED
from .model import LAYERS
from .node import Settings

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Sizes:
    """What the formulas depend on; `receivers` is the number of processes that own the nodes."""

    nodes: int
    receivers: int
    edges: int
    train: int
    valid: int


def bytes_per_round(
    method: str, settings: Settings, sizes: Sizes, server_epochs: int
) -> tuple[int, int]:
    """Return payload bytes (down, up) of one round with its validation, numbers as float32.

    CNFGNN, over all nodes: 4 N (2 P + n_train L h (2 + 2 R_s) + 2 n_valid L h): weights, encodings
    up and final embeddings down, g and its gradient per server epoch, validation. The averaged
    weights travel once to each process, however many nodes it owns.
    """
    n, weights = sizes.nodes, settings.net.size
    encoding = settings.layers * settings.hidden
    if method in ("central", "central-gn", "dcrnn"):
        return 0, 0
    if method == "split":
        passes = n * encoding * (2 * sizes.train + sizes.valid)
        return FLOAT * passes, FLOAT * passes
    if method == "fmtl":  # a node also gets its out-neighbours' weights
        return FLOAT * weights * sizes.edges, FLOAT * n * weights
    shared = method in ("cnfgnn", "fedavg")
    down = weights * (sizes.receivers if shared else 0)
    up = n * weights if shared else 0
    if method in SERVED:
        half = n * encoding * (sizes.train * (1 + server_epochs) + sizes.valid)
        down, up = down + half, up + half
    return FLOAT * down, FLOAT * up


def device_flops(settings: Settings) -> int:
    """Return the floating-point operations of one device for one window, forwards.

    Matrix products alone, two operations per multiply-add: 6 h (in + h) per GRU step, 2 per
    weight of the output.
    """
    total = 0
    for width, steps in (
        (settings.hidden, settings.history),
        (settings.hidden + settings.embedding, settings.horizon),
    ):
        for layer in range(settings.layers):
            total += steps * 6 * width * ((width if layer else 2) + width)
    return total + settings.horizon * 2 * (settings.hidden + settings.embedding)


def server_flops(settings: Settings, nodes: int, edges: int, hidden: int, updated: int) -> int:
    """Return the floating-point operations of the graph network for one window, forwards."""

    def mlp(inputs: int) -> int:
        return 2 * (inputs * hidden + hidden * hidden + hidden * updated)

    node, edge, whole, total = settings.hidden, 1, settings.hidden, 0
    for layer in range(LAYERS):
        total += edges * mlp(2 * node + edge + whole) + nodes * mlp(node + updated + whole)
        if layer + 1 < LAYERS:
            total += mlp(2 * updated + whole)
        node, edge, whole = node + updated, edge + updated, whole + updated
    return total + nodes * 2 * node * settings.embedding
