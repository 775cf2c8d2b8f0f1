"""Training with all data in one place, and split learning without averages: the other baselines.

`central` is one encoder-decoder for all nodes, `central-gn` the whole of CNFGNN trained end to
end, `split` the same with a device model per node and a step of everything for each batch;
`dcrnn` is another network, which reads all series and the graph at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.runtime import stream
from .coordinator import Coordinator
from .diffusion import DiffusionNetwork, diffuse, scaled_laplacian
from .model import teacher_probability
from .sums import error_sums
from .transport import LocalTransport, Traffic
from .windows import Part

# DCRNN's training, as its authors' code has it.
EPSILON = 1e-3  # of Adam
MILESTONES, DECAY = (20, 30, 40, 50), 0.1  # epochs after which the learning rate falls
CLIP = 5.0  # norm of the gradient
WINDOWS_AT_ONCE = 64  # of an evaluation


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


class Dcrnn(Joint):
    """Trains the diffusion network on all windows; without devices nothing travels."""

    def __init__(self, transport: LocalTransport, *arguments: Any) -> None:
        super().__init__(transport, *arguments)
        assert isinstance(self.server, DiffusionNetwork)
        self.network = self.server
        self.weights = self.weights.detach().new_zeros(1, 0)
        self.laplacian = scaled_laplacian(self.graph)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.options.lr, eps=EPSILON, fused=True
        )

    def round(self) -> dict[str, float]:
        """Run one epoch, at the learning rate of that epoch."""
        drops = sum(self.rounds >= epoch for epoch in MILESTONES)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * DECAY**drops
        return super().round()

    def _step(self, ids: Tensor, forced: Tensor) -> float:
        windows = self.group.windows
        starts = self.group.starts["train"][ids.to(self.transport.device)][None]
        future = windows.future(starts)
        forecast = self.network(windows.past(starts), future, forced, self.laplacian)
        loss = ((forecast - future[1]).square() * future[2]).sum() / future[2].sum().clamp_min(1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        return float(loss.detach())

    def evaluate(self, part: Part) -> Tensor:
        """Return sums of errors (N, H, 5), float64 on the CPU, as `error_sums` has them."""
        total: Any = 0
        for starts in self.group.starts[part].split(WINDOWS_AT_ONCE):
            forecast = diffuse(self.network, self.laplacian, self.group, starts)
            total = total + error_sums(forecast, self.group.truth(starts)).cpu()
        return total

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of the network's weights, under the names that the server's have."""
        state = self.network.state_dict()
        return {
            "device": self.weights,
            **{f"server.{name}": tensor.detach().clone() for name, tensor in state.items()},
        }

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go back to copies that `snapshot` made."""
        self.network.load_state_dict(
            {name[7:]: tensor for name, tensor in snapshot.items() if name.startswith("server.")}
        )


ENGINES: dict[str, type[Coordinator]] = {
    "central": Joint, "central-gn": Joint, "split": Joint, "dcrnn": Dcrnn,
}  # fmt: skip  # all other methods are the coordinator's
