"""The server: alternating training of devices and graph network, over any transport.

CNFGNN, section 3.4: (1) the nodes train their copies of the device weights on their own series,
the server's embeddings g fixed; (2) the server averages the copies; (3) the nodes upload the
encodings c of their windows; (4) with the devices frozen the server trains the graph network by
split learning: it sends g, the nodes return dLoss/dg; (5) the nodes get the new g.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, DivergedError
from ...core.runtime import stream
from .config import FederationOptions, ModelOptions, RoundOptions, WindowOptions
from .diffusion import DiffusionNetwork
from .graph import Graph
from .model import DeviceNet, GraphNetwork, teacher_probability
from .node import Piece, Settings, server_order
from .privacy import aggregate, epsilon, private_mean
from .transport import Transport
from .windows import PARTS, Part, Scaler, scaler_of

CHUNK_BYTES = 32 * 2**20  # encodings of this size travel in one call
DELTA = 1e-5  # of differential privacy
SHARED = ("cnfgnn", "fedavg", "central", "central-gn")  # all nodes have the same weights
SERVED = ("cnfgnn", "at", "central-gn", "split")  # a graph network on the server
GRAPHED = (*SERVED, "dcrnn")  # cannot do without a graph


def settings_of(
    model: ModelOptions, windows: WindowOptions, federation: FederationOptions, seed: int
) -> Settings:
    """Return what the nodes must know."""
    served = model.method in SERVED
    return Settings(
        model.hidden,
        model.hidden if served else 0,
        model.layers,
        windows.history,
        windows.horizon,
        windows.stride,
        windows.eval_stride,
        seed,
        federation.encoding_clip,
        federation.encoding_noise,
    )


def make_graph_network(model: ModelOptions) -> GraphNetwork | DiffusionNetwork:
    """Return the untrained network of the server."""
    if model.method == "dcrnn":
        return DiffusionNetwork(model.hidden, model.layers)
    return GraphNetwork(
        model.hidden, model.server_hidden, model.server_size, model.hidden, model.global_agg
    )


class Coordinator:
    """Runs rounds of a federated method and scores what came out."""

    def __init__(
        self,
        transport: Transport,
        graph: Graph,
        model: ModelOptions,
        windows: WindowOptions,
        options: RoundOptions,
        federation: FederationOptions,
        seed: int,
    ) -> None:
        self.transport, self.options, self.federation = transport, options, federation
        self.seed, self.model = seed, model
        self.graph = graph.to(transport.device)
        self.settings = settings_of(model, windows, federation, seed)
        self.net: DeviceNet = self.settings.net
        self.served, self.shared = model.method in SERVED, model.method in SHARED
        nodes = len(transport.names)
        weights = self.net.initial(stream(seed, 0))
        self.weights = (weights if self.shared else weights.repeat(nodes, 1)).to(transport.device)
        torch.manual_seed(seed)  # torch's own initialisation of the graph network
        self.server = make_graph_network(model).to(transport.device)
        self.optimizer = torch.optim.Adam(
            self.server.parameters(), lr=options.server_lr or options.lr, fused=True
        )
        self.steps, self.rounds, self.private_rounds = 0, 0, 0
        self.rejected: list[str] = []
        self.scaler = Scaler(0.0, 1.0)
        self.counts = torch.zeros(nodes, dtype=torch.float64)
        self.lengths: dict[Piece, int] = {}
        self.encodings: dict[Piece, Tensor] = {}
        self.embeddings: Tensor | None = None
        self.warn: Callable[[str], None] = lambda message: None

    # --- who is there ---

    def begin(self) -> None:
        """Set the nodes up: settings, the scaler of all, and after a resume their embeddings."""
        self.transport.newcomers()
        self.counts = self._configure(None)
        sums = self.transport.call("stats", expect={"sums": (3,)}).tensors["sums"]
        self.scaler = scaler_of(sums.cpu())
        self.transport.call("standardise", mean=self.scaler.mean, std=self.scaler.std)
        self._send_weights()
        if self.served and self.rounds:
            self.collect_encodings("train", self.rounds - 1)
            self.push_embeddings()

    def _configure(self, only: Tensor | None) -> Tensor:
        """Send the settings; returns the windows with targets (N,). All must have equally many."""
        reply = self.transport.call(
            "configure", only=only, expect={"windows": (), "lengths": (3,)}, **vars(self.settings)
        )
        lengths = reply.tensors["lengths"].cpu()[reply.alive]
        if len(lengths) == 0:
            raise DataError("no node answered", "are the joiners still there?")
        before = [self.lengths[part] for part in PARTS if part in self.lengths]
        known = torch.tensor(before or lengths[0].tolist())
        if bool((lengths != known).any()):
            raise DataError(
                "the nodes' series differ in length", "cut all to the same steps, gaps left empty"
            )
        self.lengths = {**dict(zip(PARTS, known.tolist(), strict=True)), "newest": 1}
        return reply.tensors["windows"].cpu()

    def welcome(self) -> None:
        """Set up the nodes that joined or came back since the last round."""
        new = self.transport.newcomers()
        if not bool(new.any()):
            return
        counts = self._configure(new)
        self.counts = counts.where(new, self.counts)
        self.transport.call("standardise", only=new, mean=self.scaler.mean, std=self.scaler.std)
        self._send_weights(new)
        if self.embeddings is not None:
            for begin, end in self._chunks(self.embeddings.shape[1]):
                part = {"embeddings": self.embeddings[:, begin:end]}
                self.transport.call("keep", only=new, per_node=part, begin=begin)

    def _send_weights(self, only: Tensor | None = None) -> None:
        if self.shared:
            self.transport.call("take", shared={"weights": self.weights}, only=only)
        else:
            self.transport.call("take", per_node={"weights": self.weights}, only=only)

    # --- one round ---

    def round(self) -> dict[str, float]:
        """Run one round and return what it is to be judged by: the training loss."""
        self.welcome()
        self.rejected = []
        log = {"loss": self._device_phase()}
        self._send_weights()
        if self.served:
            self.collect_encodings("train")
            for epoch in range(self.options.server_epochs):
                log["server_loss"] = self._server_epoch(epoch)
            self.push_embeddings()
        self.rounds += 1
        return log

    def _device_phase(self) -> float:
        options = self.options
        extra = self._neighbours() if self.model.method == "fmtl" else {}
        reply = self.transport.call(
            "train",
            per_node=extra,
            only=self._participants(),
            expect={"weights": (self.net.size,), "loss": ()},
            epochs=options.local_epochs,
            first_epoch=self.rounds * options.local_epochs,
            batch=options.batch_size,
            lr=options.lr,
            step=self.steps,
            decay=options.teacher,
        )
        good = self._acceptable(reply.tensors["weights"], reply.alive)
        if not bool(good.any()):
            raise DivergedError(
                f"round {self.rounds + 1}: no node sent a usable update",
                f"lower --lr (now {options.lr:g}), or look at the nodes' data",
            )
        self._merge(reply.tensors["weights"], good)
        windows = self.lengths["train"]
        self.steps += options.local_epochs * -(-windows // options.batch_size)
        return float(reply.tensors["loss"].cpu()[good].double().mean())

    def _participants(self) -> Tensor | None:
        """Draw the nodes of a round, each on its own; None is all of them."""
        rate = self.federation.participation
        if rate == 1:
            return None
        generator = stream(self.seed, 3, self.rounds)
        drawn = torch.rand(len(self.transport.names), generator=generator) < rate
        if not bool(drawn.any()):
            drawn[int(torch.randint(len(drawn), (1,), generator=generator))] = True
        return drawn

    def _acceptable(self, weights: Tensor, alive: Tensor) -> Tensor:
        """Return whose update is used; the others are named in `rejected`."""
        good = alive.clone()
        updates = (weights - self.weights).norm(dim=1).cpu()
        finite = updates.isfinite()
        limit = float("inf")
        if int((alive & finite).sum()) >= 3 and self.federation.reject_above:
            limit = self.federation.reject_above * float(updates[alive & finite].median())
        for node in alive.nonzero()[:, 0].tolist():
            name = self.transport.names[node]
            if not finite[node]:
                self._reject(f"node {name}: its update holds NaN or infinite numbers")
            elif updates[node] > limit:
                self._reject(
                    f"node {name}: its update has norm {float(updates[node]):.3g}, "
                    f"more than {self.federation.reject_above:g} times the median"
                )
            else:
                continue
            good[node] = False
        return good

    def _reject(self, reason: str) -> None:
        self.rejected.append(reason)
        self.warn(f"round {self.rounds + 1}: update rejected; {reason}")

    def _merge(self, weights: Tensor, good: Tensor) -> None:
        federation = self.federation
        kept = good.to(weights.device)
        if not self.shared:
            self.weights = weights.where(kept[:, None], self.weights)
        elif federation.dp_clip:
            expected = federation.participation * len(self.transport.names)
            self.weights = private_mean(
                self.weights, weights[kept], expected, federation.dp_clip, federation.dp_noise,
                stream(self.seed, 4, self.rounds),
            )  # fmt: skip
            self.private_rounds += 1
        else:
            counts = self.counts[good].to(weights.device)
            self.weights = aggregate(weights[kept], counts, federation.aggregate)

    def _neighbours(self) -> dict[str, Tensor]:
        """Return each node's out-neighbours' weights (N, K, P) and their pulls (N, K), padded."""
        graph = self.graph
        real = graph.source != graph.target
        source, target, weight = (t[real] for t in (graph.source, graph.target, graph.weight))
        order = source.argsort(stable=True)
        source, target, weight = source[order], target[order], weight[order]
        degree = torch.bincount(source, minlength=graph.nodes)
        place = (
            torch.arange(len(source), device=source.device) - (degree.cumsum(0) - degree)[source]
        )
        most = max(1, int(degree.max()))
        who = source.new_zeros(graph.nodes, most).index_put((source, place), target)
        pulls = weight.new_zeros(graph.nodes, most).index_put((source, place), weight)
        return {"anchors": self.weights[who], "pulls": pulls}

    # --- the server's part ---

    def _chunks(self, windows: int) -> list[tuple[int, int]]:
        s = self.settings
        row = 4 * len(self.transport.names) * s.layers * max(1, s.hidden)
        step = max(1, CHUNK_BYTES // row)
        return [(b, min(b + step, windows)) for b in range(0, windows, step)]

    def collect_encodings(self, part: Piece, tag: int | None = None) -> Tensor:
        """Ask the nodes for the encodings (N, W, L, h) of their windows.

        Of nodes that do not answer the last ones are used, or zeros. `tag` names the draw of the
        noise that nodes may add; by default the round.
        """
        tag = self.rounds if tag is None else tag
        old = self.encodings.get(part)
        found = []
        for begin, end in self._chunks(self.lengths[part]):
            reply = self.transport.call(
                "encode",
                expect={"encodings": (end - begin, self.settings.layers, self.settings.hidden)},
                part=part,
                begin=begin,
                end=end,
                tag=tag,
            )
            new = reply.tensors["encodings"]
            # A node that sends NaN may not spoil the sums of all others.
            usable = reply.alive.to(new.device) & new.flatten(1).isfinite().all(1)
            before = torch.zeros_like(new) if old is None else old[:, begin:end]
            found.append(new.where(usable[:, None, None, None], before))
        self.encodings[part] = torch.cat(found, 1)
        return self.encodings[part]

    def _server_epoch(self, epoch: int) -> float:
        options, windows = self.options, self.lengths["train"]
        encodings = self.encodings["train"]
        order = server_order(self.seed, self.rounds, epoch, windows).to(encodings.device)
        draws = stream(self.seed, 8, self.rounds, epoch)
        total = count = 0.0
        for begin in range(0, windows, options.server_batch):
            ids = order[begin : begin + options.server_batch]
            chance = teacher_probability(self.steps, options.teacher)
            forced = torch.rand(self.settings.horizon, generator=draws) <= chance
            squares, targets = self._server_step(
                encodings[:, ids], epoch=epoch, begin=begin, forced=forced.tolist()
            )
            total, count = total + squares, count + targets
            self.steps += 1
        return total / max(count, 1)

    def _server_step(self, encodings: Tensor, **batch: Any) -> tuple[float, float]:
        """Take one step of split learning: g down, dLoss/dg up, backwards through the network."""
        self.server.train()
        embeddings = self.server(encodings, self.graph)
        reply = self.transport.call(
            "decode_gradient",
            per_node={"embeddings": embeddings.detach()},
            expect={"gradients": tuple(embeddings.shape[1:]), "squares": (), "count": ()},
            round=self.rounds,
            **batch,
        )
        gradients, count = reply.tensors["gradients"], float(reply.tensors["count"].sum())
        usable = gradients.flatten(1).isfinite().all(1)
        gradients = gradients.where(usable[:, None, None, None], 0) / max(count, 1)
        self.optimizer.zero_grad(set_to_none=True)
        embeddings.backward(gradients)
        self.optimizer.step()
        return float(reply.tensors["squares"].nan_to_num(0).sum()), count

    @torch.no_grad()
    def embed(self, encodings: Tensor) -> Tensor:
        """Return the embeddings (N, W, L, e) that the nodes get; empty ones without a server."""
        if not self.served:
            return encodings[..., :0]
        chunks = encodings.split(max(1, self.options.server_batch), 1)
        return torch.cat([self.server(part, self.graph) for part in chunks], 1)

    def push_embeddings(self) -> None:
        """Send the nodes the embeddings of their training windows."""
        self.embeddings = self.embed(self.encodings["train"])
        for begin, end in self._chunks(self.embeddings.shape[1]):
            part = {"embeddings": self.embeddings[:, begin:end]}
            self.transport.call("keep", per_node=part, begin=begin)

    # --- scores ---

    def evaluate(self, part: Part) -> Tensor:
        """Return sums of errors (N, H, 5), float64 on the CPU, as `error_sums` has them."""
        windows = self.lengths[part]
        total: Any = 0
        if self.served:
            embeddings = self.embed(self.collect_encodings(part))
        else:
            shape = (len(self.transport.names), windows, self.settings.layers, 0)
            embeddings = torch.zeros(shape, device=self.transport.device)
        for begin, end in self._chunks(windows):
            reply = self.transport.call(
                "evaluate",
                per_node={"embeddings": embeddings[:, begin:end]},
                expect={"sums": (self.settings.horizon, 5)},
                part=part,
                begin=begin,
            )
            total = total + reply.tensors["sums"].cpu()
        return total

    def personalise(self, epochs: int) -> dict[str, Tensor]:
        """Let every node fine-tune a copy of its weights, its embeddings fixed."""
        if self.served:
            self.collect_encodings("train")
            self.push_embeddings()
            embeddings = self.embed(self.collect_encodings("valid"))
        else:
            shape = (len(self.transport.names), self.lengths["valid"], self.settings.layers, 0)
            embeddings = torch.zeros(shape, device=self.transport.device)
        reply = self.transport.call(
            "personalise",
            per_node={"valid_embeddings": embeddings},
            expect={
                "epoch": (),
                "before": (self.settings.horizon, 5),
                "after": (self.settings.horizon, 5),
            },
            epochs=epochs,
            batch=self.options.batch_size,
            lr=self.options.personal_lr or self.options.lr,
            seed_epoch=1_000_000,  # its shuffles are not those of the rounds
        )
        return reply.tensors

    def finish(self) -> None:
        """Let every node forecast what lies behind the end of its series."""
        encodings = self.collect_encodings("newest")
        self.transport.call("finish", per_node={"embeddings": self.embed(encodings)})

    def spent(self) -> float | None:
        """Return the epsilon that the averages have cost so far; None without --dp-clip."""
        federation = self.federation
        if not federation.dp_clip:
            return None
        return epsilon(self.private_rounds, federation.participation, federation.dp_noise, DELTA)

    # --- keeping ---

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of what forecasts need: device weights, and the server's where it is."""
        found = {"device": self.weights.detach().clone()}
        if self.served:
            state = self.server.state_dict()
            found |= {f"server.{name}": t.detach().clone() for name, t in state.items()}
        return found

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go back to such copies, and send them to the nodes."""
        self.weights = snapshot["device"].to(self.transport.device).clone()
        state = {name[7:]: t for name, t in snapshot.items() if name.startswith("server.")}
        if self.served:
            self.server.load_state_dict(state)
        self._send_weights()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next round depends on; the embeddings follow from it."""
        return {
            "weights": self.weights,
            "server": self.server.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "rounds": self.rounds,
            "private_rounds": self.private_rounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from such a state. Raises `DataError` when the sizes differ."""
        if state["weights"].shape != self.weights.shape:
            raise DataError("the state belongs to another network or other nodes")
        self.weights = state["weights"].to(self.transport.device)
        self.server.load_state_dict(state["server"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.rounds = state["steps"], state["rounds"]
        self.private_rounds = state["private_rounds"]
