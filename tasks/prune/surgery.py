"""Cutting channels out of modules for real: smaller tensors, not masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import FrozenBatchNorm2d

Norm = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


@dataclass(frozen=True)
class Slice:
    """The channels that one module keeps, as ascending indices; None keeps all.

    For norms, only `outputs` is used.
    """

    inputs: list[int] | None = None
    outputs: list[int] | None = None


Slices: TypeAlias = Mapping[str, Slice]


def apply_slices(model: nn.Module, slices: Slices) -> None:
    """Cut `model` in place. Names, dtype, device and requires_grad of all tensors stay.

    Raises `ValueError` for a module that cannot be cut, `AttributeError` for a wrong name.
    """
    for name, part in slices.items():
        module = model.get_submodule(name)
        if isinstance(module, _ConvNd):
            _cut_conv(module, part)
        elif isinstance(module, nn.Linear):
            _cut_linear(module, part)
        elif isinstance(module, Norm):
            _cut_norm(module, part)
        else:
            raise ValueError(f"{name} is a {type(module).__name__}, which cannot be cut")


def compose(first: Slices, second: Slices) -> dict[str, Slice]:
    """Return the slices that do what `first` and then `second` do."""

    def chain(a: list[int] | None, b: list[int] | None) -> list[int] | None:
        if a is None or b is None:
            return a if b is None else b
        return [a[i] for i in b]

    empty = Slice()
    return {
        name: Slice(
            chain(first.get(name, empty).inputs, second.get(name, empty).inputs),
            chain(first.get(name, empty).outputs, second.get(name, empty).outputs),
        )
        for name in {**first, **second}
    }


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether each output channel of a convolution sees one input channel alone."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


def _cut_conv(conv: _ConvNd, part: Slice) -> None:
    weight = conv.weight
    if isinstance(conv, _ConvTransposeNd):
        if conv.groups != 1:
            raise ValueError("grouped transposed convolutions cannot be cut")
        weight = _take(_take(weight, part.inputs, 0), part.outputs, 1)
    elif is_depthwise(conv):
        weight = _take(weight, part.outputs, 0)
        if part.inputs is not None:
            conv.groups = len(part.inputs)
    elif conv.groups > 1:
        weight = _cut_grouped(conv, part)
    else:
        weight = _take(_take(weight, part.outputs, 0), part.inputs, 1)
    _set(conv, "weight", weight)
    if conv.bias is not None:
        _set(conv, "bias", _take(conv.bias, part.outputs, 0))
    if part.outputs is not None:
        conv.out_channels = len(part.outputs)
    if part.inputs is not None:
        conv.in_channels = len(part.inputs)


def _cut_grouped(conv: _ConvNd, part: Slice) -> Tensor:
    """Cut a grouped weight (C_out, C_in / G, ...) whose groups all lose equally many channels."""
    weight, groups = conv.weight, conv.groups
    rows = torch.arange(conv.out_channels) if part.outputs is None else torch.tensor(part.outputs)
    group_of_row = rows.to(weight.device) // (conv.out_channels // groups)
    weight = _take(weight, part.outputs, 0)
    if part.inputs is None:
        return weight
    width = conv.in_channels // groups
    # Row r of `columns` lists the kept inputs of group r, counted within the group.
    columns = (torch.tensor(part.inputs, device=weight.device) % width).view(groups, -1)
    index = columns[group_of_row].view(len(weight), -1, *(1,) * (weight.dim() - 2))
    return weight.gather(1, index.expand(-1, -1, *weight.shape[2:]))


def _cut_linear(linear: nn.Linear, part: Slice) -> None:
    _set(linear, "weight", _take(_take(linear.weight, part.outputs, 0), part.inputs, 1))
    if linear.bias is not None:
        _set(linear, "bias", _take(linear.bias, part.outputs, 0))
    linear.out_features, linear.in_features = linear.weight.shape


def _cut_norm(norm: nn.Module, part: Slice) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(norm, name, None)
        if tensor is not None:
            _set(norm, name, _take(tensor, part.outputs, 0))
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and part.outputs is not None:
        norm.num_features = len(part.outputs)


def _take(tensor: Tensor, kept: list[int] | None, dim: int) -> Tensor:
    if kept is None:
        return tensor
    return tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device))


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    """Put `value` in the place of a parameter or buffer, as the same kind of thing."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        value = nn.Parameter(value.detach().contiguous(memory_format=layout), old.requires_grad)
    setattr(module, name, value)
