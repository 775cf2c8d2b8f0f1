"""Which channels belong together: channel identities propagated through a traced network.

Every tensor gets, along its channel dimension, an array of integer ids. Layers that mix channels
(convolutions, linear layers) make fresh ids; layers that act on each channel alone hand ids on;
sums and gates unite the ids of both operands; data movement moves the ids just as it moves the
data. Channels with the same id can only be removed together. Whatever is not understood protects
all ids that reach it: nothing is ever guessed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth, stochastic_depth

from ...core.accounting import meta_copy
from ...core.errors import DataError
from .ids import PROTECTED, ChannelGraph, Ids, Roles
from .surgery import Norm, is_depthwise


class _Tracer(fx.Tracer):
    """Keeps modules whole that the propagation knows, though they are not torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, FrozenBatchNorm2d | StochasticDepth)
        return known or super().is_leaf_module(m, module_qualified_name)


def analyse(network: nn.Module, shape: tuple[int, ...]) -> ChannelGraph:
    """Trace `network` (in eval mode) and propagate ids for an input of `shape` (C, H, W).

    Raises `DataError` that names the operation when the network cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
        graph_module = fx.GraphModule(network, graph)
        found = ChannelGraph(graph_module)
        _Propagation(found, meta_copy(graph_module)).run(torch.empty(2, *shape, device="meta"))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot follow the channels through {type(network).__name__}: {_first_line(error)}",
            "control flow that depends on values cannot be pruned",
        ) from error
    return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


_UNARY_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SiLU,
    nn.GELU,
    nn.Mish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    StochasticDepth,
)
ACTIVATIONS = {
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.silu,
    F.gelu,
    F.hardswish,
    F.hardsigmoid,
    F.sigmoid,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
}
_UNARY_FUNCTIONS = {
    *ACTIVATIONS,
    F.dropout,
    F.dropout2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    F.interpolate,
    torch.clone,
    stochastic_depth,
}
_UNARY_METHODS = {"relu", "sigmoid", "tanh", "clone", "contiguous", "float", "relu_", "clamp"}
_SUMS = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub}
_PRODUCTS = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div}
_MOVES = {
    torch.flatten,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.chunk,
    torch.split,
    torch.reshape,
    operator.getitem,
}
_MOVE_METHODS = {
    "flatten",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "chunk",
    "split",
    "reshape",
    "view",
}
_SHAPE_METHODS = {"size", "dim"}


class _Propagation(fx.Interpreter):
    """Runs the graph on shapes alone and applies a rule to every node."""

    def __init__(self, found: ChannelGraph, shadow: fx.GraphModule) -> None:
        super().__init__(shadow, garbage_collect_values=False)
        self.found = found
        self.ids: dict[fx.Node, Any] = {}
        # The shadow's nodes correspond one to one to those of the real graph.
        self.real = {node.name: node for node in found.graph_module.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        ids = self._rule(n, value)
        self.ids[n] = ids
        self.found.node_ids[n.name] = ids
        if isinstance(value, Tensor):
            self.found.shapes[n.name] = tuple(value.shape)
        return value

    def _rule(self, node: fx.Node, value: Any) -> Any:
        if node.op == "placeholder":
            return Ids(1, np.full(value.shape[1], PROTECTED, dtype=np.int64))
        if node.op == "output":
            self._protect_all(node)
            return None
        if node.op == "call_module":
            return self._module(node, value)
        if node.op in ("call_function", "call_method"):
            return self._call(node, value)
        return None

    # --- modules ---

    def _module(self, node: fx.Node, value: Any) -> Any:
        name = str(node.target)
        module = self.found.graph_module.get_submodule(name)
        given = self._of(node.args[0])
        if isinstance(module, _ConvNd | nn.Linear):
            return self._mixing(name, module, given, value)
        if isinstance(module, Norm):
            return self._norm(name, given)
        if isinstance(module, _UNARY_MODULES):
            return self._same(given, value)
        if isinstance(module, nn.ZeroPad2d):
            return given
        if isinstance(module, nn.Flatten):
            return self._move(node, given, value, module)
        self._protect_all(node)
        return None

    def _mixing(
        self, name: str, module: _ConvNd | nn.Linear, given: Ids | None, value: Tensor
    ) -> Ids | None:
        dim = value.dim() - 1 if isinstance(module, nn.Linear) else 1
        if given is not None and given.dim != dim:
            self.found.protect(given)
            given = None
        roles = self.found.roles.setdefault(name, Roles())
        first_call = roles.outputs is None
        if given is not None:
            if roles.inputs is None and first_call:
                roles.inputs = given.array
            elif roles.inputs is not None:
                self.found.unite(roles.inputs, given.array)
            else:
                self.found.protect(given)
        elif roles.inputs is not None:
            self.found.protect(roles.inputs)
        if isinstance(module, _ConvNd) and is_depthwise(module):
            if roles.inputs is None:
                return None
            roles.outputs = np.repeat(roles.inputs, module.out_channels // module.in_channels)
            return Ids(dim, roles.outputs)
        if roles.outputs is None:
            roles.outputs = self.found.fresh(value.shape[dim])
            self.found.producers.append(name)
            if isinstance(module, _ConvNd) and module.groups > 1:
                self._partition(name, module, roles)
        return Ids(dim, roles.outputs)

    def _partition(self, name: str, conv: _ConvNd, roles: Roles) -> None:
        """Note that the groups of a convolution must lose equally many channels."""
        assert roles.outputs is not None
        if isinstance(conv, _ConvTransposeNd):
            self.found.protect(roles.inputs)
            self.found.protect(roles.outputs)
            return
        for side, ids in (("in", roles.inputs), ("out", roles.outputs)):
            if ids is None:
                continue
            width = len(ids) // conv.groups
            for place, key in enumerate(ids.tolist()):
                self.found.cells.setdefault(key, []).append((f"{name}.{side}", place // width))

    def _norm(self, name: str, given: Ids | None) -> Ids | None:
        if given is None:
            return None
        roles = self.found.roles.setdefault(name, Roles())
        if roles.outputs is not None:
            self.found.unite(roles.outputs, given.array)
        roles.outputs = given.array
        return given

    # --- functions and methods ---

    def _call(self, node: fx.Node, value: Any) -> Any:
        target = node.target
        if not _has_tensor(value):
            return None
        first = self._of(node.args[0]) if node.args else None
        if target in _UNARY_FUNCTIONS or target in _UNARY_METHODS:
            return self._same(first, value)
        if target in _SUMS or target in _PRODUCTS or target in ("add", "add_", "mul", "mul_"):
            is_sum = target in _SUMS or target in ("add", "add_")
            return self._binary(node, value, is_sum)
        if target in (torch.cat, torch.concat):
            return self._cat(node, value)
        if target in (torch.mean, "mean"):
            return self._mean(node, first)
        if target is F.pad:
            return self._pad(node, first, value)
        if target in _MOVES or target in _MOVE_METHODS:
            if target is operator.getitem and isinstance(first, tuple):
                return first[node.args[1]]  # type: ignore[index]
            return self._move(node, first, value, None)
        if getattr(target, "__name__", "") == "boolean_dispatch":  # F.max_pool2d and its kind
            return self._same(first, value)
        self._protect_all(node)
        return None

    def _same(self, given: Any, value: Tensor) -> Ids | None:
        if not isinstance(given, Ids):
            return None
        if value.dim() <= given.dim or value.shape[given.dim] != len(given.array):
            self.found.protect(given)
            return None
        return given

    def _binary(self, node: fx.Node, value: Tensor, is_sum: bool) -> Ids | None:
        """Unite the operands' ids where both have channels; numbers change nothing."""
        tensors = [
            (self._of(arg), self.env[arg])
            for arg in node.args
            if isinstance(arg, fx.Node) and isinstance(self.env[arg], Tensor)
        ]
        # Count dimensions from the right, as broadcasting does.
        known = [(ids, ids.dim - t.dim()) for ids, t in tensors if isinstance(ids, Ids)]
        wide = [(ids, place) for ids, place in known if len(ids.array) > 1]
        if not wide:
            return known[0][0] if known and known[0][0].dim < value.dim() else None
        result, place = wide[0]
        for ids, other in wide[1:]:
            if other != place or len(ids.array) != len(result.array):
                self._protect_all(node)
                return None
            self.found.unite(result.array, ids.array)
            self.found.joins += 1
        for ids, tensor in tensors:
            if not isinstance(ids, Ids) and tensor.dim() >= -place and tensor.shape[place] > 1:
                self.found.protect(result)  # a constant with one value per channel
        if is_sum and len(tensors) > 1:
            self.found.mark_residual(result.array)
            self.found.sums.append(self.real[node.name])
        return Ids(value.dim() + place, result.array)

    def _cat(self, node: fx.Node, value: Tensor) -> Ids | None:
        if isinstance(node.args[0], fx.Node):  # all pieces of a split, which protected them
            return None
        parts = [self._of(arg) for arg in node.args[0]]  # type: ignore[union-attr]
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        assert isinstance(dim, int)
        dim %= value.dim()
        if any(not isinstance(ids, Ids) or ids.dim != dim for ids in parts):
            self._protect_all(node)
            return None
        self.found.joins += 1
        return Ids(dim, np.concatenate([ids.array for ids in parts]))

    def _mean(self, node: fx.Node, given: Any) -> Ids | None:
        if not isinstance(given, Ids):
            return None
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        keep = bool(node.kwargs.get("keepdim", len(node.args) > 2 and node.args[2]))
        rank = self.env[node.args[0]].dim()  # type: ignore[index]
        if dims is None:
            reduced = set(range(rank))
        else:
            reduced = {d % rank for d in (dims if isinstance(dims, Iterable) else [dims])}
        if given.dim in reduced:
            self.found.protect(given)
            return None
        return given if keep else Ids(given.dim - sum(d < given.dim for d in reduced), given.array)

    def _pad(self, node: fx.Node, given: Any, value: Tensor) -> Ids | None:
        if not isinstance(given, Ids):
            return None
        widths = node.kwargs.get("pad", node.args[1] if len(node.args) > 1 else ())
        place = 2 * (value.dim() - 1 - given.dim)  # F.pad counts from the last dimension
        pair = tuple(widths)[place : place + 2]  # type: ignore[arg-type]
        if not pair:
            return given
        if not all(isinstance(width, int) and width >= 0 for width in pair):
            self.found.protect(given)
            return None
        # What is added are constants, which stay.
        return Ids(given.dim, np.pad(given.array, pair, constant_values=PROTECTED))

    def _move(
        self, node: fx.Node, given: Any, value: Any, module: nn.Module | None
    ) -> Ids | tuple[Ids | None, ...] | None:
        """Let the very same operation move a tensor of ids, and read off where they went."""
        if not isinstance(given, Ids):
            self._protect_all(node)
            return None
        source = self.env[node.args[0]]  # type: ignore[index]
        view = [1] * source.dim()
        view[given.dim] = -1
        carrier = torch.from_numpy(given.array).view(view).expand(source.shape)
        rest = fx.node.map_arg(node.args[1:], lambda n: self.env[n])
        named = fx.node.map_arg(node.kwargs, lambda n: self.env[n])
        operation: Callable[..., Any]
        if module is not None:
            operation = module
        elif node.op == "call_method":
            operation = getattr(torch.Tensor, str(node.target))
        else:
            operation = node.target  # type: ignore[assignment]
        moved = operation(carrier, *rest, **named)
        if isinstance(moved, Tensor):
            return self._read(node, given, moved)
        return tuple(self._read(node, given, part) for part in moved)

    def _read(self, node: fx.Node, given: Ids, moved: Tensor) -> Ids | None:
        dims = [d for d in range(moved.dim()) if bool((moved != moved.narrow(d, 0, 1)).any())]
        if len(dims) > 1 or (not dims and len(given.array) > 1 and given.array.any()):
            self.found.protect(given)  # channels were split or dropped
            return None
        dim = dims[0] if dims else min(given.dim, moved.dim() - 1)
        index = [0] * moved.dim()
        array = moved[tuple(slice(None) if d == dim else i for d, i in enumerate(index))].numpy()
        if len(array) < len(given.array) or _has_fixed_size(node, dim):
            self.found.protect(given)
        return Ids(dim, array.astype(np.int64))

    # --- arguments ---

    def _of(self, arg: Any) -> Any:
        return self.ids.get(arg) if isinstance(arg, fx.Node) else None

    def _protect_all(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            ids = self.ids.get(source)
            for part in ids if isinstance(ids, tuple) else (ids,):
                self.found.protect(part)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_tensor(item) for item in value)
    return isinstance(value, Tensor)


def _has_fixed_size(node: fx.Node, dim: int) -> bool:
    """Tell whether a reshape names the number of channels literally, so that it must not change."""
    if node.target not in ("view", "reshape", torch.reshape):
        return False
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return dim < len(sizes) and isinstance(sizes[dim], int) and bool(sizes[dim] != -1)
