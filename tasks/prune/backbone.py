"""Where the backbone of a model ends, and at which points its repair is supervised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .channels import analyse
from .ids import Array, ChannelGraph, Ids

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_GLOBAL_POOLS = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "mean"}


@dataclass(frozen=True)
class Backbone:
    """The part of a model that is pruned and repaired.

    `root` is the traced module and `prefix` its name in the model ("" for the model itself);
    `outputs` are the nodes at which the backbone ends. Everything behind them is the head,
    which is left alone.
    """

    root: nn.Module
    prefix: str
    graph: ChannelGraph
    outputs: tuple[fx.Node, ...]

    @property
    def is_whole_model(self) -> bool:
        """True for classifiers, whose head lies in the same traced graph."""
        return not self.prefix

    def full_name(self, module: str) -> str:
        """Return the name in the whole model of a module of `root`."""
        return f"{self.prefix}.{module}" if self.prefix else module


def locate(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module to trace and its name: a detector's body, or the whole classifier."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return model, ""
    body = getattr(backbone, "body", None)
    if isinstance(body, nn.Module):  # the feature pyramid around it belongs to the head
        return body, "backbone.body"
    return backbone, "backbone"


def find_backbone(model: nn.Module, shape: tuple[int, ...]) -> Backbone:
    """Trace a model for inputs of `shape` (C, H, W) and protect all that is not backbone.

    Raises `DataError` when it cannot be traced.
    """
    root, prefix = locate(model)
    graph = analyse(root, shape)
    nodes = list(graph.graph_module.graph.nodes)
    outputs = _last_features(root, graph) if root is model else _returned(nodes[-1])
    for node in outputs:
        graph.protect(graph.node_ids.get(node.name))
    inside = ancestors(outputs)
    for node in nodes:
        if node not in inside and node.op == "call_module":
            roles = graph.roles.get(str(node.target))
            graph.protect(roles.outputs if roles else None)
    return Backbone(root, prefix, graph, tuple(outputs))


def _returned(output: fx.Node) -> list[fx.Node]:
    return list(dict.fromkeys(output.all_input_nodes))


def _last_features(root: nn.Module, graph: ChannelGraph) -> list[fx.Node]:
    """Return the last value of `features`, or the input of the global pool or of the classifier."""
    nodes = list(graph.graph_module.graph.nodes)
    if isinstance(getattr(root, "features", None), nn.Module):
        inside = [n for n in nodes if _belongs_to(n, "features")]
        if inside:
            return [inside[-1]]
    pools = [n for n in nodes if _is_global_pool(n, graph)]
    if pools:
        return [pools[-1].all_input_nodes[0]]
    linears = [
        n
        for n in nodes
        if n.op == "call_module"
        and isinstance(graph.graph_module.get_submodule(str(n.target)), nn.Linear)
    ]
    return [linears[-1].all_input_nodes[0]] if linears else _returned(nodes[-1])


def _belongs_to(node: fx.Node, module: str) -> bool:
    """Tell whether a node was recorded while `module` (or a part of it) ran."""
    return any(name == module or name.startswith(f"{module}.") for name in _stack(node))


def _stack(node: fx.Node) -> list[str]:
    stack: dict[str, Any] = node.meta.get("nn_module_stack", {})
    names = [entry[0] if isinstance(entry, tuple) else key for key, entry in stack.items()]
    return [*names, str(node.target)] if node.op == "call_module" else names


def _is_global_pool(node: fx.Node, graph: ChannelGraph) -> bool:
    if node.op == "call_module":
        module = graph.graph_module.get_submodule(str(node.target))
        return isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
    return getattr(node.target, "__name__", node.target) in _GLOBAL_POOLS


def ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return `nodes` and everything that they are computed from."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


# --- supervision points ---


@dataclass(frozen=True)
class Tap:
    """A value whose pruned and unpruned versions are compared.

    `kept` are the channels along dimension `dim` that the pruned network still has; None: all.
    """

    node: str
    dim: int
    kept: list[int] | None


def choose_taps(backbone: Backbone, removed: Array, mode: str) -> list[Tap]:
    """Return the supervision points for a network that lost the ids `removed`.

    `block`: the values behind each residual sum and its activation, values that a sum and
    something else use, inputs of pooling layers, and the outputs. Networks without sums are
    supervised wherever a value is used more than once, and plain chains at the activations of
    all unpruned convolutions. On torchvision's ResNets these are exactly the block outputs (the
    paper's code hooks the last norm of each block, which in-place operations turn into that).
    `pre-add`: residual branches before the sum, and the outputs. `output`: the outputs.
    """
    graph = backbone.graph
    chosen = set(backbone.outputs)
    inside = ancestors(backbone.outputs)
    sums = [node for node in graph.sums if node in inside]
    if mode == "block":
        chosen |= {_activated(node) for node in sums}
        operands = {arg for node in sums for arg in node.all_input_nodes}
        chosen |= {node for node in operands if len(node.users) > 1}
        chosen |= {node.all_input_nodes[0] for node in inside if is_pool(node, graph)}
        if not sums:
            chosen |= {node for node in inside if len(node.users) > 1 and _is_layer(node)}
        if graph.joins == 0:
            chosen = _unpruned_activations(backbone, removed)
    elif mode == "pre-add":
        operands = {arg for node in sums for arg in node.all_input_nodes}
        chosen |= {node for node in operands if len(node.users) == 1}
    changed = _downstream_of_cuts(backbone, removed)
    order = [n for n in graph.graph_module.graph.nodes if n in chosen and n in inside]
    # What no cut has touched is equal in both networks (unless nothing was cut at all).
    order = [n for n in order if n in changed] or list(backbone.outputs)
    return [tap for node in order if (tap := _tap(graph, node, removed)) is not None]


def _tap(graph: ChannelGraph, node: fx.Node, removed: Array) -> Tap | None:
    ids = graph.node_ids.get(node.name)
    if not isinstance(ids, Ids):
        return Tap(node.name, 1, None)
    kept = ~np.isin(graph.find(ids.array), removed)
    if not kept.any():
        return None
    return Tap(node.name, ids.dim, None if kept.all() else np.flatnonzero(kept).tolist())


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_module" or node.target is torch.cat


def _activated(node: fx.Node) -> fx.Node:
    """Return the activation that alone follows a sum, else the sum itself."""
    users = list(node.users)
    if len(users) == 1 and "relu" in str(users[0].target).lower():
        return users[0]
    return node


def is_pool(node: fx.Node, graph: ChannelGraph) -> bool:
    """Tell whether a node is a pooling layer with a window (not a global one)."""
    if node.op == "call_module":
        return isinstance(graph.graph_module.get_submodule(str(node.target)), _POOLS)
    name = getattr(node.target, "__name__", "")
    return name in ("boolean_dispatch", "avg_pool2d", "max_pool2d") and bool(node.all_input_nodes)


def _unpruned_activations(backbone: Backbone, removed: Array) -> set[fx.Node]:
    graph, found = backbone.graph, set()
    for node in graph.graph_module.graph.nodes:
        if node.op == "call_module" and str(node.target) in graph.producers:
            outputs = graph.roles[str(node.target)].outputs
            assert outputs is not None
            if not np.isin(graph.find(outputs), removed).any():
                found.add(end_of_layer(node, graph))
    return found


def end_of_layer(node: fx.Node, graph: ChannelGraph) -> fx.Node:
    """Follow a convolution through its norm and activation."""
    while len(node.users) == 1:
        following = next(iter(node.users))
        is_layer = following.op == "call_module" and not is_pool(following, graph)
        if not is_layer or str(following.target) in graph.producers:
            break
        node = following
    return node


def _downstream_of_cuts(backbone: Backbone, removed: Array) -> set[fx.Node]:
    graph, changed = backbone.graph, set()
    for node in graph.graph_module.graph.nodes:
        ids = graph.node_ids.get(node.name)
        cut = isinstance(ids, Ids) and bool(np.isin(graph.find(ids.array), removed).any())
        if cut or any(source in changed for source in node.all_input_nodes):
            changed.add(node)
    return changed


def tapped(
    backbone: Backbone, root: nn.Module, taps: Sequence[Tap], clone: bool = False
) -> fx.GraphModule:
    """Return a module that computes the taps alone, on the modules of `root`.

    `root` is the backbone's own root or a pruned copy of it; parameters are shared with it. With
    `clone`, values are copied before later in-place operations change them.
    """
    source = backbone.graph.graph_module.graph
    wanted = {tap.node for tap in taps}
    needed = ancestors([node for node in source.nodes if node.name in wanted])
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    results: dict[str, fx.Node] = {}
    for node in source.nodes:
        if node in needed:
            values[node] = graph.node_copy(node, values.__getitem__)
            if node.name in wanted:
                value = values[node]
                results[node.name] = graph.call_method("clone", (value,)) if clone else value
    graph.output(tuple(results[tap.node] for tap in taps))
    return fx.GraphModule(root, graph)
