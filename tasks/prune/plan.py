"""Choosing the channels that go: scores, ratios per layer, and the resulting slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ...core.errors import DataError
from .backbone import Backbone, end_of_layer, is_pool
from .config import PlanOptions
from .ids import PROTECTED, Array, ChannelGraph
from .surgery import Norm, Slice


@dataclass(frozen=True)
class Layer:
    """Channels that are decided on together: `ids` (n,) with their `scores` (n,).

    `name` is the first module that produces them; `cells` (n,) numbers the groups of grouped
    convolutions, each of which must lose equally many.
    """

    name: str
    ids: Array
    scores: NDArray[np.float64]
    cells: Array
    width: int


@dataclass(frozen=True)
class Cut:
    """What happens to one layer: how many channels it had and keeps."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """Which channels go: `removed` ids, the `slices` per module, and a summary per layer."""

    removed: Array
    slices: dict[str, Slice]
    cuts: list[Cut]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return {"layers": [[cut.layer, cut.before, cut.after] for cut in self.cuts]}


def layer_ratio(width: int, sparsity: float, schedule: str) -> float:
    """Return the share of a layer of `width` channels that goes (paper code, ResNet table)."""
    if schedule == "uniform":
        return sparsity
    if width >= 500:
        return min(1.3 * sparsity, 1.0)
    return sparsity if width > 200 else 0.4 * sparsity


def find_layers(
    backbone: Backbone, scope: Literal["inner", "all"], criterion: str, keep: Sequence[str] = ()
) -> list[Layer]:
    """Return the layers that may lose channels, in the order of the forward pass.

    `inner` (paper): neither channels that pass a residual sum nor those of the first layer; in a
    plain chain the first two layers and those before a pooling stay whole, too. `all`: every
    channel that neither reaches the backbone's output nor an operation that is not understood.
    """
    graph = backbone.graph
    blocked = set(graph.protected.tolist())
    if scope == "inner":
        blocked |= set(graph.residual.tolist())
        for name in _first_layers(graph) | (_stage_ends(backbone) if graph.joins == 0 else set()):
            blocked |= _outputs(graph, name)
    for name in graph.producers:
        if any((backbone.full_name(name) + ".").startswith(f"{prefix}.") for prefix in keep):
            blocked |= _outputs(graph, name)
    for prefix in keep:
        if not any((backbone.full_name(n) + ".").startswith(f"{prefix}.") for n in graph.producers):
            raise DataError(f"--keep {prefix}: the backbone has no such layer", "see --dry-run")
    scores = score_ids(backbone, criterion)
    layers = []
    for names in _groups(graph):
        outputs = graph.roles[names[0]].outputs
        assert outputs is not None
        width = len(outputs)
        merged = np.concatenate([graph.roles[name].outputs for name in names])
        ids = np.unique(graph.find(merged))
        ids = ids[~np.isin(ids, list(blocked))]
        cells = _cells(graph, ids)
        if len(ids) and cells is not None:
            layers.append(Layer(backbone.full_name(names[0]), ids, scores[ids], cells, width))
    return layers


def _outputs(graph: ChannelGraph, name: str) -> set[int]:
    outputs = graph.roles[name].outputs
    return set() if outputs is None else set(graph.find(outputs).tolist())


def _first_layers(graph: ChannelGraph) -> set[str]:
    """Return the layers that see the input itself, and in a chain the one after, too."""
    first = {
        name
        for name in graph.producers
        if (ids := graph.roles[name].inputs) is not None and (ids == PROTECTED).all()
    }
    if graph.joins == 0:
        first |= set(graph.producers[:2])
    return first


def _stage_ends(backbone: Backbone) -> set[str]:
    """Return the convolutions whose activations go straight into a pooling layer."""
    graph = backbone.graph
    return {
        str(node.target)
        for node in graph.graph_module.graph.nodes
        if node.op == "call_module"
        and str(node.target) in graph.producers
        and any(is_pool(user, graph) for user in end_of_layer(node, graph).users)
    }


def _groups(graph: ChannelGraph) -> list[list[str]]:
    """Group the producers that share channels, in order of first appearance."""
    owner: dict[int, int] = {}
    groups: list[list[str]] = []
    for name in graph.producers:
        ids = _outputs(graph, name) - {PROTECTED}
        touched = sorted({owner[i] for i in ids if i in owner})
        if touched:
            target = touched[0]
            for other in touched[1:]:
                groups[target] += groups[other]
                groups[other] = []
        else:
            target = len(groups)
            groups.append([])
        groups[target].append(name)
        for member in groups[target]:
            owner.update(dict.fromkeys(_outputs(graph, member), target))
    return [group for group in groups if group]


def _cells(graph: ChannelGraph, ids: Array) -> Array | None:
    """Number the cells that must lose equally many channels; None when they are unequal."""
    memberships: dict[int, set[tuple[str, int]]] = {}
    raw = np.fromiter(graph.cells, dtype=np.int64, count=len(graph.cells))
    for key, root in zip(raw.tolist(), graph.find(raw).tolist() if len(raw) else [], strict=True):
        memberships.setdefault(root, set()).update(graph.cells[key])
    keys = [tuple(sorted(memberships.get(int(i), set()))) for i in ids]
    names, cells, counts = np.unique(
        np.array([str(key) for key in keys]), return_inverse=True, return_counts=True
    )
    return cells if len(names) and len(set(counts.tolist())) == 1 else None


# --- scores ---


def score_ids(backbone: Backbone, criterion: str) -> NDArray[np.float64]:
    """Return the importance of each id, summed over all weights that make the channel.

    `l1`: sum of |w| of the producing rows; `l2`: sum of squares (what the paper's code computes
    under the name L1); `bn`: the signed scale of the norms that follow.
    """
    graph = backbone.graph
    totals = torch.zeros(graph.count, dtype=torch.float64)
    for name, roles in graph.roles.items():
        module = graph.graph_module.get_submodule(name)
        if roles.outputs is None or isinstance(module, Norm) != (criterion == "bn"):
            continue
        ids = torch.from_numpy(graph.find(roles.outputs))
        totals.index_add_(0, ids, _row_scores(module, criterion).double().cpu())
    return totals.numpy()


def _row_scores(module: nn.Module, criterion: str) -> Tensor:
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    if criterion == "bn":
        return weight
    if isinstance(module, _ConvTransposeNd):
        weight = weight.transpose(0, 1)
    values = weight.abs() if criterion == "l1" else weight.square()
    return values.flatten(1).sum(1)


# --- the choice ---


def make_plan(
    backbone: Backbone, layers: Iterable[Layer], options: PlanOptions, schedule: str
) -> Plan:
    """Remove from each layer the channels of the lowest score, and slice every module involved."""
    removed, cuts = [], []
    for layer in layers:
        gone = _lowest(layer, layer_ratio(layer.width, options.sparsity, schedule), options)
        removed.append(gone)
        cuts.append(Cut(layer.name, len(layer.ids), len(layer.ids) - len(gone)))
    ids = np.concatenate(removed) if removed else np.empty(0, dtype=np.int64)
    return Plan(ids, slices_for(backbone, ids), cuts)


def _lowest(layer: Layer, ratio: float, options: PlanOptions) -> Array:
    """Return the ids that go: in every cell the same number, those with the lowest scores."""
    cells = int(layer.cells.max()) + 1
    size = len(layer.ids) // cells
    kept = size - int(size * ratio)
    floor = min(len(layer.ids), max(options.min_channels, 1))
    while kept < size and (kept * cells < floor or (kept * cells) % options.round_to):
        kept += 1
    gone = []
    for cell in range(cells):
        members = np.flatnonzero(layer.cells == cell)
        order = members[np.argsort(layer.scores[members], kind="stable")]
        gone.append(layer.ids[order[: size - kept]])
    return np.concatenate(gone)


def slices_for(backbone: Backbone, removed: Array) -> dict[str, Slice]:
    """Return the slices that take `removed` ids out of every module that reads or writes them."""
    graph = backbone.graph
    gone = np.zeros(graph.count, dtype=bool)
    gone[removed] = True
    slices = {}
    for name, roles in graph.roles.items():
        inputs, outputs = (_kept(graph, ids, gone) for ids in (roles.inputs, roles.outputs))
        if inputs is None and outputs is None:
            continue
        slices[backbone.full_name(name)] = Slice(inputs, outputs)
    return slices


def _kept(graph: ChannelGraph, ids: Array | None, gone: NDArray[np.bool_]) -> list[int] | None:
    if ids is None:
        return None
    kept = ~gone[graph.find(ids)]
    return None if kept.all() else np.flatnonzero(kept).tolist()
