"""Training with all data in one place, and split learning without averages: the other baselines.

`central` is one encoder-decoder for all nodes, `central-gn` the whole of CNFGNN trained end to
end, `split` the same with a device model per node and a step of everything for each batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.runtime import stream
from .coordinator import Coordinator
from .model import teacher_probability
from .transport import LocalTransport, Traffic
from .windows import Part


class Joint(Coordinator):
    """A coordinator that differentiates through devices and server at once; a round is an epoch.

    In-process only: raw series would have to travel, or (split) four messages per batch.
    """

    def __init__(self, transport: LocalTransport, *arguments: Any) -> None:
        super().__init__(transport, *arguments)
        self.group = transport.group
        self.alone = self.model.method == "split"
        self.weights.requires_grad_()
        parameters = [self.weights, *(self.server.parameters() if self.served else ())]
        self.optimizer = torch.optim.Adam(parameters, lr=self.options.lr, fused=True)

    def round(self) -> dict[str, float]:
        """Run one epoch over all windows."""
        # Split learning's code shuffles once for all epochs.
        epoch = 0 if self.alone else self.rounds
        generator = stream(self.seed, 6, epoch)
        draws = stream(self.seed, 7, self.rounds)
        order = torch.randperm(self.lengths["train"], generator=generator)
        losses = []
        for ids in order.split(self.options.batch_size):
            chance = teacher_probability(self.steps, self.options.teacher)
            forced = torch.rand(self.settings.horizon, generator=draws) <= chance
            losses.append(self._step(ids, forced))
            self.steps += 1
        if self.alone:  # c and dLoss/dg up, g and dLoss/dc down
            passes = 2 * 4 * self.weights.shape[0] * self.lengths["train"] * self.settings.layers
            size = passes * self.settings.hidden
            self.transport.traffic.count("split", size, size)
        self.rounds += 1
        self._send_weights()
        return {"loss": sum(losses) / len(losses)}

    def _step(self, ids: Tensor, forced: Tensor) -> float:
        group, device = self.group, self.transport.device
        starts = group.starts["train"][ids.to(device)]
        past, future = group.windows.past(starts[None]), group.windows.future(starts[None])
        states = group.states(self.weights, past)
        embeddings = self.server(states, self.graph) if self.served else states[..., :0]
        forecast = group.decode_states(
            self.weights, torch.cat((states, embeddings), -1), past, future, forced.to(device)
        )
        squares = (forecast - future[1]).square() * future[2]
        # Each split device steps on its own mean loss, as if it were alone with the server.
        loss = squares.sum() / future[2].sum().clamp_min(1)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * len(group) if self.alone else loss).backward()
        self.optimizer.step()
        return float(loss.detach())

    def evaluate(self, part: Part) -> Tensor:
        """Do what `Coordinator.evaluate` does; where all data is in one place none travels."""
        kept = self.transport.traffic
        self.transport.traffic = kept if self.alone else Traffic()
        sums = super().evaluate(part)
        self.transport.traffic = kept
        return sums

    def _send_weights(self, only: Tensor | None = None) -> None:
        self.group.take(self.weights.detach())

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go back to copies that `snapshot` made."""
        with torch.no_grad():
            self.weights.copy_(snapshot["device"])
        state = {name[7:]: t for name, t in snapshot.items() if name.startswith("server.")}
        if self.served:
            self.server.load_state_dict(state)
        self._send_weights()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        leaf = self.weights
        super().load_state_dict(state)
        # The optimizer holds on to the tensor it was made with.
        with torch.no_grad():
            leaf.copy_(self.weights)
        self.weights = leaf
