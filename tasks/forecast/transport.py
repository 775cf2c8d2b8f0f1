"""How the coordinator reaches the nodes: one interface, here with all nodes in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .node import NodeGroup

# What a coordinator may ask of a node; nothing else is carried out.
OPERATIONS = (
    "configure",
    "stats",
    "standardise",
    "take",
    "train",
    "encode",
    "decode_gradient",
    "keep",
    "evaluate",
    "personalise",
    "finish",
)


@dataclass(frozen=True)
class Reply:
    """Answers of all nodes side by side: tensors (N, ...), and who answered, bool (N,).

    Rows of nodes that did not answer are zeros.
    """

    tensors: dict[str, Tensor]
    alive: Tensor


@dataclass
class Traffic:
    """Payload bytes that went to the nodes and came from them, by operation."""

    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)

    def count(self, operation: str, down: int, up: int) -> None:
        """Add one exchange."""
        self.down[operation] = self.down.get(operation, 0) + down
        self.up[operation] = self.up.get(operation, 0) + up

    @property
    def total(self) -> tuple[int, int]:
        """Bytes (down, up)."""
        return sum(self.down.values()), sum(self.up.values())


class Transport(Protocol):
    """Carries operations to nodes."""

    names: tuple[str, ...]
    traffic: Traffic
    device: torch.device

    def call(
        self,
        operation: str,
        *,
        shared: Mapping[str, Tensor] | None = None,
        per_node: Mapping[str, Tensor] | None = None,
        only: Tensor | None = None,
        expect: Mapping[str, tuple[int, ...]] | None = None,
        **numbers: Any,
    ) -> Reply:
        """Ask all nodes (or those of `only`, bool (N,)) for an operation of `NodeGroup`.

        `shared` tensors go to every node as they are, of `per_node` tensors (N, ...) each node
        gets its row. `expect` names the tensors of the answer and their shape per node.
        """

    def newcomers(self) -> Tensor:
        """Return which nodes have (re)joined since the last call, bool (N,)."""


class LocalTransport:
    """All nodes in this process, in one tensor program; counts the bytes that would travel."""

    def __init__(self, group: NodeGroup) -> None:
        self.group = group
        self.names = group.names
        self.device = group.device
        self.traffic = Traffic()
        self._new = torch.ones(len(group), dtype=torch.bool)

    def call(
        self,
        operation: str,
        *,
        shared: Mapping[str, Tensor] | None = None,
        per_node: Mapping[str, Tensor] | None = None,
        only: Tensor | None = None,
        expect: Mapping[str, tuple[int, ...]] | None = None,
        **numbers: Any,
    ) -> Reply:
        """Carry the operation out here. Nodes outside `only` compute too, and are not heard."""
        shared, per_node = dict(shared or {}), dict(per_node or {})
        answer: dict[str, Tensor] = getattr(self.group, operation)(**shared, **per_node, **numbers)
        alive = torch.ones(len(self.names), dtype=torch.bool) if only is None else only.clone()
        share = int(alive.sum()) / len(self.names)
        down = len(self.names) * size(shared) + size(per_node)
        self.traffic.count(operation, round(share * down), round(share * size(answer)))
        if only is not None:
            there = only.to(self.device)
            answer = {
                name: t.where(there.to(t.device).view(-1, *[1] * (t.dim() - 1)), 0)
                for name, t in answer.items()
            }
        return Reply(answer, alive)

    def newcomers(self) -> Tensor:
        """All nodes join at the first call."""
        new, self._new = self._new, torch.zeros_like(self._new)
        return new


def size(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
